//! A machine of one virtio device and one guest that does what a stream of operations says.
use super::{
    Address, DriverRing, Edges, GuestOp, Log, Plugged, Pump, Ram, WRITE, bring_up, holds, ops, used_ram_of,
};
use drystone_state::{Component, Persist};
use drystone_virtio::{DRIVER_OK, F_EVENT_IDX, F_INDIRECT_DESC, F_RING_RESET, Host, NEEDS_RESET};
use std::collections::HashMap;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// Guest memory that no guest here ever names: no byte that it writes has the bits that these have.
pub const CANARY: u64 = 0x7777_7000_0000;
const CANARY_LEN: usize = 0x1000;
/// What the guest writes is masked with this, so that it cannot name the canary, however it is put together.
const MASK: u64 = 0xefef_efef_efef_efef;

const RINGS: u64 = 0x10000;
const BUFFERS: u64 = 0x20000;
const END: u64 = 0x30000;
/// Room for the buffers of one chain: four of up to 255 bytes, and what lies between.
const SLOT: u64 = 0x440;
const SLOTS: u64 = (END - BUFFERS) / SLOT;
const QUEUES: u8 = 2;
/// Calls that any single operation may cause.
const STEPS: u32 = 4096;
const ALL: u64 = F_EVENT_IDX | F_INDIRECT_DESC | F_RING_RESET;
/// Features of a device's own type (2.2).
const OWN: u64 = 0xff_ffff;

/// A chain that was made available: its buffers.
struct Sent {
    slot: u64,
    writable: Vec<(u64, u32)>,
}

/// Builds a device that takes guest memory, interrupts and a host.
pub type Make<P> = fn(&Ram, Arc<Edges>, Host) -> <P as Plugged>::Device;

/// What a driver can know of a [`World`] besides what is in its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome<'a> {
    /// The device's status.
    pub status: u8,
    /// What was taken back: queue, head, bytes written.
    pub completions: &'a [(usize, u16, u32)],
    /// Interrupts, of whatever kind.
    pub interrupts: u32,
}

/// Pages of the guest's memory.
const PAGES: std::ops::Range<u64> = 0..END / PAGE as u64;
const PAGE: usize = 0x1000;

/// The machine. Its device has one or two queues, and answers every request that has a writable byte at once.
pub struct World<P: Plugged> {
    make: Make<P>,
    memory: Ram,
    port: P,
    pump: Arc<Pump>,
    edges: Arc<Edges>,
    log: Arc<Log>,
    rings: Vec<DriverRing>,
    size: u16,
    features: u64,
    sent: Vec<HashMap<u16, Sent>>,
    free: Vec<u64>,
    /// What the buffers should hold.
    shadow: Vec<u8>,
    answered: u64,
    completions: Vec<(usize, u16, u32)>,
}

impl<P: Plugged> World<P> {
    /// Builds the machine, with the device brought up with those of `features` that it offers and rings of `size` entries
    /// (a power of two up to 256). `make` is called again whenever it moves.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn new(make: Make<P>, features: u64, size: u16) -> Self {
        let memory = used_ram_of(&[(0, END as usize), (CANARY, CANARY_LEN)]);
        memory.write_slice(&[0xc7; CANARY_LEN], GuestAddress(CANARY)).unwrap();
        let (pump, edges, log) =
            (Arc::new(Pump::default()), Arc::new(Edges::default()), Arc::new(Log::default()));
        let port = P::plug(build::<P>(make, &memory, &pump, &edges, &log));
        let mut world = Self {
            make,
            memory,
            port,
            pump,
            edges,
            log,
            rings: Vec::new(),
            size,
            features: features & (ALL | OWN),
            sent: Vec::new(),
            free: Vec::new(),
            shadow: Vec::new(),
            answered: 0,
            completions: Vec::new(),
        };
        world.bring_up();
        world
    }

    /// How many requests were answered and taken back.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// What can be known of it now.
    pub fn outcome(&self) -> Outcome<'_> {
        let (status, interrupts) = (self.port.status(), self.edges.line());
        Outcome { status, completions: &self.completions, interrupts }
    }

    /// The first page of guest memory that is not the same in `other`. Looks at all of them, or only at those that either has
    /// marked as written since it was last asked.
    pub fn first_other_page<Q: Plugged>(&self, other: &World<Q>, all: bool) -> Option<u64> {
        let written = self.take_written() | other.take_written();
        let page = |memory: &Ram, page: u64| -> [u8; PAGE] {
            let mut content = [0; PAGE];
            memory.read_slice(&mut content, GuestAddress(page * PAGE as u64)).unwrap();
            content
        };
        PAGES
            .filter(|n| all || written >> n & 1 == 1)
            .find(|n| page(&self.memory, *n) != page(&other.memory, *n))
    }

    /// A bit for each page that was written since this was last asked.
    fn take_written(&self) -> u64 {
        let region = self.memory.find_region(GuestAddress(0)).expect("guest memory");
        (**region).bitmap().take()[0]
    }

    fn queues(&self) -> u8 {
        let all = self.port.core().description().queue_sizes.len();
        QUEUES.min(all as u8)
    }

    /// As a driver's probe does.
    fn bring_up(&mut self) {
        let event_idx = self.features & F_EVENT_IDX != 0;
        self.port.prepare();
        self.port.set_status(0);
        let ring = |q| DriverRing::new(&self.memory, RINGS * u64::from(q), self.size, event_idx);
        self.rings = (0..self.queues()).map(ring).collect();
        self.sent = self.rings.iter().map(|_| HashMap::new()).collect();
        self.free = (0..SLOTS).collect();
        self.shadow.resize((END - BUFFERS) as usize, 0);
        self.memory.read_slice(&mut self.shadow, GuestAddress(BUFFERS)).unwrap();
        bring_up(&self.port, &self.rings.iter().collect::<Vec<_>>(), self.features);
        self.serve();
        assert_eq!(self.port.status() & NEEDS_RESET, 0, "{:?}", self.log.take());
    }

    fn serve(&self) {
        self.pump.run(self.port.core(), STEPS);
    }

    /// The machine stops, and goes on in another process.
    fn relocate(&mut self) {
        self.port.device().pause().unwrap();
        let state = self.port.device().save().unwrap();
        let used: Vec<u16> = self.rings.iter().map(DriverRing::used_index).collect();
        self.serve();
        let still: Vec<u16> = self.rings.iter().map(DriverRing::used_index).collect();
        assert_eq!(used, still, "it served while it was paused");
        let new = build::<P>(self.make, &self.memory, &self.pump, &self.edges, &self.log);
        new.restore(crate::as_written(&state)).unwrap();
        assert_eq!(new.save().unwrap(), state, "what was restored is what was saved");
        self.port = P::plug(new);
        self.port.device().resume().unwrap();
    }

    fn pause(&mut self) {
        self.port.device().pause().unwrap();
        self.serve();
        self.port.device().resume().unwrap();
    }

    /// The index of a queue that exists.
    fn queue(&self, queue: u8) -> usize {
        usize::from(queue % self.queues())
    }

    fn ring(&mut self, queue: u8) -> &mut DriverRing {
        let queue = self.queue(queue);
        &mut self.rings[queue]
    }

    fn add(&mut self, queue: u8, readable: [u8; 2], writable: [u8; 2], indirect: bool) {
        let indirect = indirect && self.features & F_INDIRECT_DESC != 0;
        let Some(slot) = self.free.pop() else { return };
        let (mut bufs, mut targets, mut at) = (Vec::new(), Vec::new(), BUFFERS + slot * SLOT);
        let lengths = readable.map(|len| (len, 0)).into_iter().chain(writable.map(|len| (len, WRITE)));
        for (len, flags) in lengths.filter(|(len, _)| *len != 0) {
            bufs.push((at, len.into(), flags));
            if flags == WRITE {
                targets.push((at, u32::from(len)));
            }
            // With some bytes in between that belong to nobody.
            at += u64::from(len).next_multiple_of(16) + 16;
        }
        let index = self.queue(queue);
        let head = if bufs.is_empty() { None } else { self.rings[index].add(&bufs, indirect) };
        match head {
            Some(head) => {
                let old = self.sent[index].insert(head, Sent { slot, writable: targets });
                assert!(old.is_none());
            }
            None => self.free.push(slot),
        }
    }

    fn kick(&mut self, queue: u8) {
        if self.ring(queue).wants_kick() {
            self.port.notify(self.queue(queue) as u16);
        }
    }

    /// Takes completions back. Only while everything was orderly: it panics at a completion that cannot be.
    fn collect(&mut self, queue: u8) {
        let queue = self.queue(queue);
        while let Some((head, written)) = self.rings[queue].take() {
            let Sent { slot, writable } = self.sent[queue].remove(&head).expect("a head that was sent");
            let room: u32 = writable.iter().map(|(_, len)| len).sum();
            assert!(written <= room, "{written} bytes written, there is room for {room}");
            assert_eq!(written == 0, room == 0, "a request was answered with nothing");
            let mut left = written as usize;
            for (at, len) in writable {
                let len = left.min(len as usize);
                let from = (at - BUFFERS) as usize;
                self.memory.read_slice(&mut self.shadow[from..from + len], GuestAddress(at)).unwrap();
                left -= len;
            }
            self.free.push(slot);
            self.answered += 1;
            self.completions.push((queue, head, written));
        }
    }

    /// Does what the orderly ones among `ops` say. Whatever happens, and wherever the machine is paused or moved, every
    /// request is answered exactly once, and nothing but its writable bytes is written.
    ///
    /// # Panics
    /// If not.
    pub fn run_orderly(&mut self, ops: &[GuestOp]) {
        for op in ops {
            self.step_orderly(*op);
        }
        self.finish();
    }

    /// Does one operation, if it is an orderly one.
    ///
    /// # Panics
    /// As [`run_orderly`](Self::run_orderly), as far as it can be known before its end.
    pub fn step_orderly(&mut self, op: GuestOp) {
        match op {
            GuestOp::Add { queue, readable, writable, indirect } => {
                self.add(queue, readable, writable, indirect)
            }
            GuestOp::Kick { queue } => self.kick(queue),
            GuestOp::Collect { queue } => self.collect(queue),
            GuestOp::WantInterrupt { queue, after } => {
                self.ring(queue).want_interrupt_after(u16::from(after).max(1))
            }
            GuestOp::Serve => self.serve(),
            GuestOp::Move => self.relocate(),
            GuestOp::Pause => self.pause(),
            GuestOp::ResetQueue { queue } => self.renew_queue(queue),
            _ => {}
        }
        assert_eq!(
            self.port.status() & (NEEDS_RESET | DRIVER_OK),
            DRIVER_OK,
            "{op:?}: {:?}",
            self.log.take()
        );
    }

    /// Does what some bytes mean: the first says whether orderly, and everything is answered in the end, or anything at all.
    ///
    /// # Panics
    /// As [`run_orderly`](Self::run_orderly) and [`run`](Self::run).
    pub fn stream(&mut self, data: &[u8]) {
        // Nobody asks for those of an hour.
        self.completions.clear();
        self.log.take();
        match data.split_first() {
            Some((kind, data)) if kind & 1 == 0 => self.run_orderly(&ops(data)),
            Some((_, data)) => self.run(&ops(data)),
            None => {}
        }
    }

    /// A queue is reset, and set up again, with nothing outstanding.
    fn renew_queue(&mut self, queue: u8) {
        if self.features & F_RING_RESET == 0 {
            return;
        }
        self.finish_queue(queue);
        let (index, event_idx) = (self.queue(queue), self.features & F_EVENT_IDX != 0);
        assert!(self.port.reset_queue(index as u16) && !self.port.enabled(index as u16));
        let ring = DriverRing::new(&self.memory, RINGS * index as u64, self.size, event_idx);
        self.port.set_queue(index as u16, self.size, [ring.descriptors(), ring.available(), ring.used()]);
        self.rings[index] = ring;
    }

    fn finish_queue(&mut self, queue: u8) {
        self.kick(queue);
        self.serve();
        self.collect(queue);
        assert_eq!(self.rings[self.queue(queue)].outstanding(), 0, "requests were lost");
    }

    fn finish(&mut self) {
        for queue in 0..self.queues() {
            self.finish_queue(queue);
        }
        assert!(
            holds(&self.memory, BUFFERS, &self.shadow),
            "written at {:?}, outside of what was answered",
            self.wrong()
        );
        self.check_canary();
    }

    /// The first address of a buffer that is not what it should be.
    fn wrong(&self) -> Option<u64> {
        let byte = |at| -> u8 { self.memory.read_obj(GuestAddress(at)).unwrap() };
        (BUFFERS..END).zip(&self.shadow).find(|(at, expected)| byte(*at) != **expected).map(|(at, _)| at)
    }

    fn check_canary(&self) {
        let whole = holds(&self.memory, CANARY, &[0xc7; CANARY_LEN]);
        assert!(whole, "the device wrote where no driver pointed");
    }

    fn address(&self, address: Address) -> u64 {
        match address {
            Address::Rings(at) => u64::from(at) & 0xefef,
            Address::Buffers(at) => BUFFERS + (u64::from(at) & 0xefef),
            Address::Edge(at) => END - 16 + u64::from(at & 0x0f),
            Address::Last(at) => u64::MAX - u64::from(at & 0x0f),
            Address::Any(at) => at & MASK,
        }
    }

    /// Does what `ops` say, whatever it is, with a device that need not answer every request. The device survives it without a spin, never
    /// writes where no driver pointed, and can be brought up again.
    ///
    /// # Panics
    /// If not.
    pub fn survive(&mut self, ops: &[GuestOp]) {
        for op in ops {
            self.do_anything(*op);
        }
        self.check_canary();
        (self.size, self.features) = (16, ALL);
        self.bring_up();
    }

    /// Does what `ops` say, whatever it is. The device survives it without a spin, never writes where no driver pointed,
    /// and after a reset it serves as if nothing had been.
    ///
    /// # Panics
    /// If not.
    pub fn run(&mut self, ops: &[GuestOp]) {
        self.survive(ops);
        let before = self.answered;
        for queue in 0..self.queues() {
            self.add(queue, [8, 0], [8, 8], queue % 2 == 0);
        }
        self.finish();
        assert_eq!(self.answered - before, u64::from(self.queues()));
    }

    /// Does one operation, whatever it is.
    ///
    /// # Panics
    /// As [`run`](Self::run), as far as it can be known before its end.
    pub fn do_anything(&mut self, op: GuestOp) {
        match op {
            GuestOp::Add { queue, readable, writable, indirect } => {
                let index = self.queue(queue);
                // It may have been told lies about what is outstanding.
                self.sent[index].clear();
                self.add(queue, readable, writable, indirect);
            }
            GuestOp::Kick { queue } => self.kick(queue),
            GuestOp::Collect { queue } => {
                let index = self.queue(queue);
                let (base, size, event) =
                    (self.rings[index].descriptors(), self.size, self.features & F_EVENT_IDX != 0);
                if self.rings[index].outstanding() == usize::from(self.size) {
                    self.rings[index] = DriverRing::new(&self.memory, base, size, event);
                }
            }
            GuestOp::WantInterrupt { queue, after } => self.ring(queue).want_interrupt_after(after.into()),
            GuestOp::Serve => self.serve(),
            GuestOp::Move => self.relocate(),
            GuestOp::Pause => self.pause(),
            GuestOp::ResetQueue { queue } => {
                let queue = self.queue(queue) as u16;
                self.port.reset_queue(queue);
            }
            GuestOp::Notify { queue } => self.port.notify(queue),
            GuestOp::Descriptor { queue, index, addr, len, flags, next } => {
                let addr = self.address(addr);
                let ring = self.ring(queue);
                let len = len & MASK as u32;
                ring.put(
                    ring.descriptors(),
                    index.into(),
                    (addr, len, u16::from(flags) & 0xef),
                    next & 0xefef,
                );
            }
            GuestOp::Offer { queue, head } => self.ring(queue).offer(head & 0xefef),
            GuestOp::SetAvailable { queue, index } => self.ring(queue).set_available(index & 0xefef),
            GuestOp::Scribble { queue, word, value } => {
                let at =
                    RINGS * self.queue(queue) as u64 + 8 * u64::from(word % (DriverRing::LEN / 8) as u16);
                self.memory.write_obj(value & MASK, GuestAddress(at)).unwrap();
            }
            GuestOp::Read { offset, width } => {
                let mut data = [0xa5; 8];
                self.port.read_anywhere(offset, &mut data[..usize::from(width % 9)]);
            }
            GuestOp::Write { offset, width, value } => {
                let data = (value & MASK).to_le_bytes();
                self.port.write_anywhere(offset, &data[..usize::from(width % 9)]);
            }
            GuestOp::Status { value } => self.port.set_status(value),
            GuestOp::SetQueue { queue, size, areas } => {
                let areas = areas.map(|a| self.address(a));
                self.port.set_queue(self.queue(queue) as u16, size, areas);
            }
            GuestOp::BringUp { features, size } => {
                self.features = features & ALL;
                self.size = 1 << (size % 9);
                self.bring_up();
            }
            GuestOp::Reset => {
                self.port.set_status(0);
                assert_eq!(self.port.status(), 0);
            }
            GuestOp::ResetMachine => {
                self.port.device().pause().unwrap();
                self.port.device().reset().unwrap();
                let new = build::<P>(self.make, &self.memory, &self.pump, &self.edges, &self.log);
                new.pause().unwrap();
                assert_eq!(self.port.device().save().unwrap(), new.save().unwrap(), "reset is as built");
                self.port.device().resume().unwrap();
            }
        }
        // Only faults are told, one for each lane and bring-up; nothing makes the log grow by itself.
        self.log.take();
    }
}

fn build<P: Plugged>(
    make: Make<P>,
    memory: &Ram,
    pump: &Arc<Pump>,
    edges: &Arc<Edges>,
    log: &Arc<Log>,
) -> P::Device {
    let host = Host { observer: log.clone(), ..Host::new(pump.clone()) };
    make(memory, edges.clone(), host)
}
