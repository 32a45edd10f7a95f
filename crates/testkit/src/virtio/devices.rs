//! Devices for tests: one that answers at once, and one that holds what it is given.
use drystone_memory::Mem;
use drystone_state::{NoState, Persist, PersistDyn, RestoreError, SaveError};
use drystone_virtio::{Chain, Cx, Description, Fault, SharedMemory, Source, VirtioDevice, Worker};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Copies what a request says into its answer, with the low 4 bits of each byte inverted, as far as there is room. Its configuration space is 8 bytes that
/// the driver may write, and it has a shared memory region with the id 1.
pub struct Echo {
    queues: u16,
    split: bool,
    config: [u8; 8],
}

impl Echo {
    /// With this many queues of up to 256 entries. If `split`, every queue has its own worker; else all are served by the
    /// device.
    pub fn new(queues: u16, split: bool) -> Self {
        Self { queues, split, config: [0; 8] }
    }
}

/// Serves one queue of an [`Echo`].
struct EchoQueue;

fn echo<M: Mem>(queue: u16, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
    let mut ring = cx.ring(queue)?;
    while let Some(chain) = ring.pop()? {
        let mut bytes = [0; 4096];
        let len = ring.read(&chain, 0, &mut bytes)?;
        // A request that says nothing is answered as well.
        let answer = &mut bytes[..len.max(1)];
        for byte in &mut *answer {
            *byte ^= 0x0f;
        }
        let written = ring.write(&chain, 0, answer)?;
        ring.complete(chain, written as u32)?;
    }
    Ok(())
}

impl<M: Mem> Worker<M> for EchoQueue {
    fn on_kick(&mut self, queue: u16, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        echo(queue, cx)
    }
}

impl<M: Mem> Worker<M> for Echo {
    fn on_kick(&mut self, queue: u16, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        echo(queue, cx)
    }
}

impl<M: Mem> VirtioDevice<M> for Echo {
    fn describe(&self) -> Description {
        Description {
            device_type: 42,
            features: 1 << 3,
            queue_sizes: vec![256; self.queues.into()],
            config_len: 8,
            shared_memory: vec![SharedMemory { id: 1, len: 0x1_0000_2000 }],
        }
    }
    fn config_read(&self, offset: u64, out: &mut [u8]) {
        let at = offset as usize;
        out.copy_from_slice(&self.config[at..at + out.len()]);
    }
    fn config_write(&mut self, offset: u64, data: &[u8]) {
        let at = offset as usize;
        self.config[at..at + data.len()].copy_from_slice(data);
    }
    fn split(&mut self) -> Vec<(Vec<u16>, Box<dyn Worker<M>>)> {
        let queues = if self.split { 0..self.queues } else { 0..0 };
        queues.map(|q| (vec![q], Box::new(EchoQueue) as Box<dyn Worker<M>>)).collect()
    }
    fn reset(&mut self) {
        self.config = [0; 8];
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}

impl Persist for Echo {
    type State = NoState;

    fn save(&self) -> Result<NoState, SaveError> {
        Ok(NoState {})
    }
    fn restore(&self, _: NoState) -> Result<(), RestoreError> {
        Ok(())
    }
}

/// A device with requests in flight: every queue has a worker that holds requests until its test lets them go.
pub struct Hoard {
    queues: Vec<Arc<Hoarded>>,
}

/// A test's hand on one queue of a [`Hoard`].
pub struct Hoarded {
    event: Arc<EventFd>,
    /// How many requests may end.
    allowed: AtomicU32,
    /// Whether dropping them ends them: a back end that cannot be told to give up does not.
    stubborn: AtomicBool,
    held: AtomicU32,
}

impl Hoard {
    /// With this many queues of up to 256 entries.
    ///
    /// # Panics
    /// If there are no descriptors left.
    pub fn new(queues: u16) -> (Self, Vec<Arc<Hoarded>>) {
        let one = |_| {
            Arc::new(Hoarded {
                event: Arc::new(EventFd::new(EFD_NONBLOCK).unwrap()),
                allowed: AtomicU32::new(0),
                stubborn: AtomicBool::new(false),
                held: AtomicU32::new(0),
            })
        };
        let queues: Vec<_> = (0..queues).map(one).collect();
        (Self { queues: queues.clone() }, queues)
    }
}

impl Hoarded {
    /// Lets `n` requests end, now or when they come.
    pub fn let_go(&self, n: u32) {
        self.allowed.fetch_add(n, Ordering::SeqCst);
        self.event.write(1).unwrap();
    }
    /// Whether requests can be dropped; they can at first.
    pub fn set_stubborn(&self, stubborn: bool) {
        self.stubborn.store(stubborn, Ordering::SeqCst);
        self.event.write(1).unwrap();
    }
    /// How many requests are held.
    pub fn held(&self) -> u32 {
        self.held.load(Ordering::SeqCst)
    }
}

struct HoardQueue {
    queue: u16,
    hand: Arc<Hoarded>,
    held: VecDeque<Chain>,
}

impl HoardQueue {
    fn finish<M: Mem>(&mut self, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        let _ = self.hand.event.read();
        let mut ring = cx.ring(self.queue)?;
        while let Some(chain) = ring.pop()? {
            self.held.push_back(chain);
        }
        while !self.held.is_empty() && self.hand.allowed.load(Ordering::SeqCst) != 0 {
            self.hand.allowed.fetch_sub(1, Ordering::SeqCst);
            if let Some(chain) = self.held.pop_front() {
                let written = ring.write(&chain, 0, &[0x5a])?;
                ring.complete(chain, written as u32)?;
            }
        }
        self.hand.held.store(self.held.len() as u32, Ordering::SeqCst);
        Ok(())
    }
}

impl<M: Mem> Worker<M> for HoardQueue {
    fn on_kick(&mut self, _: u16, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.finish(cx)
    }
    fn on_ready(&mut self, _: u32, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.finish(cx)
    }
    fn drain(&mut self, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.finish(cx)
    }
    fn cancel(&mut self) {
        let _ = self.hand.event.read();
        if !self.hand.stubborn.load(Ordering::SeqCst) {
            self.held.clear();
        }
        self.hand.held.store(self.held.len() as u32, Ordering::SeqCst);
    }
    fn sources(&self) -> Vec<Source> {
        vec![Source { fd: self.hand.event.clone(), token: 0, readable: true, writable: false }]
    }
}

impl<M: Mem> Worker<M> for Hoard {
    fn on_kick(&mut self, _: u16, _: &mut Cx<'_, M>) -> Result<(), Fault> {
        Err(Fault::Bug("every queue was handed out"))
    }
}

impl<M: Mem> VirtioDevice<M> for Hoard {
    fn describe(&self) -> Description {
        Description { device_type: 43, queue_sizes: vec![256; self.queues.len()], ..Default::default() }
    }
    fn split(&mut self) -> Vec<(Vec<u16>, Box<dyn Worker<M>>)> {
        let worker = |(queue, hand): (u16, &Arc<Hoarded>)| {
            let worker = HoardQueue { queue, hand: hand.clone(), held: VecDeque::new() };
            (vec![queue], Box::new(worker) as Box<dyn Worker<M>>)
        };
        (0..).zip(&self.queues).map(worker).collect()
    }
    fn reset(&mut self) {}
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}

impl Persist for Hoard {
    type State = NoState;

    fn save(&self) -> Result<NoState, SaveError> {
        Ok(NoState {})
    }
    fn restore(&self, _: NoState) -> Result<(), RestoreError> {
        Ok(())
    }
}
