use drystone_bus::Interrupt;
use drystone_memory::Mem;
use drystone_virtio::{Doorbell, Event, Interrupts, Next, Observer, VirtioCore};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

/// Counts interrupts: as a transport's line, or as the vectors of up to 8 queues and the configuration.
#[derive(Debug, Default)]
pub struct Edges {
    /// By queue.
    pub queues: [AtomicU32; 8],
    /// Configuration changes.
    pub config: AtomicU32,
    /// Edges of a line.
    pub line: AtomicU32,
}

impl Edges {
    /// Interrupts of `queue` so far.
    pub fn queue(&self, queue: u16) -> u32 {
        self.queues[usize::from(queue)].load(Ordering::SeqCst)
    }
    /// Configuration interrupts so far.
    pub fn config(&self) -> u32 {
        self.config.load(Ordering::SeqCst)
    }
    /// Edges of the line so far.
    pub fn line(&self) -> u32 {
        self.line.load(Ordering::SeqCst)
    }
}

impl Interrupts for Edges {
    fn queue(&self, index: u16) {
        self.queues[usize::from(index)].fetch_add(1, Ordering::SeqCst);
    }
    fn config(&self) {
        self.config.fetch_add(1, Ordering::SeqCst);
    }
}

impl Interrupt for Edges {
    fn trigger(&self) {
        self.line.fetch_add(1, Ordering::SeqCst);
    }
}

/// A deterministic event loop for up to 64 queues: rung doorbells are bits, and are served on the caller's thread.
#[derive(Debug, Default)]
pub struct Pump(AtomicU64);

impl Doorbell for Pump {
    fn ring(&self, queue: u16) {
        self.0.fetch_or(1 << (queue % 64), Ordering::SeqCst);
    }
}

impl Pump {
    /// Serves until nothing is rung.
    ///
    /// # Panics
    /// If that takes more than `steps` calls: the device spins.
    pub fn run<M: Mem>(&self, core: &VirtioCore<M>, steps: u32) {
        let mut left = steps;
        while self.step(core) {
            left = left.checked_sub(1).unwrap_or_else(|| panic!("not idle after {steps} steps"));
        }
    }

    /// Serves every queue that is rung once. False if there was none.
    pub fn step<M: Mem>(&self, core: &VirtioCore<M>) -> bool {
        let rung = self.0.swap(0, Ordering::SeqCst);
        let mut left = rung;
        while left != 0 {
            let queue = left.trailing_zeros() as u16;
            left &= left - 1;
            if core.kick(queue) == Next::Again {
                self.ring(queue);
            }
        }
        rung != 0
    }
}

/// Keeps events, as text.
#[derive(Debug, Default)]
pub struct Log(Mutex<Vec<String>>);

impl Log {
    /// Everything since the last call.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Observer for Log {
    fn event(&self, event: &Event<'_>) {
        self.0.lock().unwrap().push(event.to_string());
    }
}

/// Runs a test that hangs when it fails: a driver that waits for a lost completion spins for ever.
///
/// # Panics
/// If `body` panics, or has not returned after `limit`, which should be far above what it ever takes.
pub fn within<T: Send + 'static>(limit: Duration, body: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let value = body();
        let _ = done.send(());
        value
    });
    if wait.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("not finished after {limit:?}: it hangs");
    }
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
