//! A network device with its driver's half, and the other end of its cable.
use crate::virtio::{DriverRing, Edges, Log, MmioPort, Pump, Ram, Transport, WRITE, bring_up, ram};
use drystone_bus::ManualClock;
use drystone_net::{Backend, FRAME_HEADER, Hook, Net, NetConfig, NetHandle, Offloads, Port, WireEnd, wire};
use drystone_state::{Component, Persist};
use drystone_virtio::{F_EVENT_IDX, F_INDIRECT_DESC, F_RING_RESET, Host, Mmio, MmioConfig};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};

/// Everything that a ring can do, for [`NetMachine::new`].
pub const RINGS: u64 = F_EVENT_IDX | F_INDIRECT_DESC | F_RING_RESET;
/// VIRTIO_NET_F_MRG_RXBUF.
pub const MRG_RXBUF: u64 = 1 << 15;
/// VIRTIO_NET_F_STATUS.
pub const STATUS: u64 = 1 << 16;
/// VIRTIO_NET_F_CTRL_VQ.
pub const CTRL_VQ: u64 = 1 << 17;
/// VIRTIO_NET_F_MQ.
pub const MQ: u64 = 1 << 22;

/// Guest memory.
const MEMORY: u64 = 32 << 20;
/// Where buffers are, one after the other, and again from the front: those that the device reads, and those that it writes.
const BUFFERS: [Range<u64>; 2] = [4 << 20..16 << 20, 16 << 20..MEMORY];
const STEPS: u32 = 4096;
/// What buffers hold before the device writes there.
const FRESH: u8 = 0xee;

/// A machine of one network device over virtio-mmio.
pub struct NetMachine {
    /// Guest memory.
    pub memory: Ram,
    /// The driver's view.
    pub port: MmioPort<Ram>,
    /// Doorbells.
    pub pump: Arc<Pump>,
    /// Interrupts.
    pub edges: Arc<Edges>,
    /// What the device told its operator.
    pub log: Arc<Log>,
    /// What a VMM has.
    pub handle: NetHandle,
    /// For limits.
    pub clock: Arc<ManualClock>,
    /// The other end of the cable.
    pub wire: WireEnd,
    /// Frames that were received and then dropped may have left something in buffers that are longer than those that came after.
    pub dropped: bool,
    /// In order, the control queue last.
    pub rings: Vec<DriverRing>,
    config: NetConfig,
    offloads: Offloads,
    features: u64,
    /// Where the next buffer of each kind goes.
    next: [u64; 2],
    /// By queue and head: the buffers of chains that are on their way.
    sent: HashMap<(u16, u16), Vec<(u64, u32)>>,
}

type Network = (Arc<dyn Backend>, Vec<Box<dyn Port>>, WireEnd);
type Built = (MmioPort<Ram>, NetHandle, WireEnd);

impl NetMachine {
    /// A device on a cable that can do `offloads`, brought up with those of `features` that it offers.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn new(config: NetConfig, offloads: Offloads, features: u64) -> Self {
        Self::with_hook(config, offloads, features, None)
    }

    /// As [`new`](Self::new), with somebody between.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn with_hook(
        config: NetConfig,
        offloads: Offloads,
        features: u64,
        hook: Option<Box<dyn Hook>>,
    ) -> Self {
        let (backend, ports, end) = wire(config.pairs, offloads).unwrap();
        Self::with_all(config, (backend, ports, end), offloads, features, hook)
    }

    /// A device on another back end than a cable: what it has of one leads nowhere.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn on(
        config: NetConfig,
        backend: Arc<dyn Backend>,
        ports: Vec<Box<dyn Port>>,
        features: u64,
    ) -> Self {
        let (_, _, end) = wire(1, Offloads::NONE).unwrap();
        Self::with_all(config, (backend, ports, end), Offloads::NONE, features, None)
    }

    fn with_all(
        config: NetConfig,
        network: Network,
        offloads: Offloads,
        features: u64,
        hook: Option<Box<dyn Hook>>,
    ) -> Self {
        let memory = ram(MEMORY as usize);
        let (pump, edges, log) = (Arc::new(Pump::default()), Arc::default(), Arc::new(Log::default()));
        let clock = Arc::new(ManualClock::default());
        let (port, handle, wire) = build(&config, network, hook, &memory, &pump, &edges, &log, &clock);
        let mut machine = Self {
            memory,
            port,
            pump,
            edges,
            log,
            handle,
            clock,
            wire,
            dropped: false,
            rings: Vec::new(),
            config,
            offloads,
            features,
            next: BUFFERS.map(|range| range.start),
            sent: HashMap::new(),
        };
        machine.bring_up(features);
        machine
    }

    /// A new driver, with new rings.
    ///
    /// # Panics
    /// If the device refuses.
    pub fn bring_up(&mut self, features: u64) {
        self.features = features;
        let control = features & self.port.offered() & CTRL_VQ != 0;
        let pairs = if features & self.port.offered() & MQ != 0 { self.config.pairs } else { 1 };
        let queues = 2 * pairs + u16::from(control);
        let size = self.config.queue_size.min(256);
        let ring = |q: u16| {
            let last = control && q + 1 == queues;
            let size = if last { size.min(64) } else { size };
            DriverRing::new(&self.memory, 0x1_0000 * (1 + u64::from(q)), size, features & F_EVENT_IDX != 0)
        };
        self.rings = (0..queues).map(ring).collect();
        self.sent.clear();
        bring_up(&self.port, &self.rings.iter().collect::<Vec<_>>(), features);
        self.run();
    }

    /// Lets the device do what there is to do.
    pub fn run(&mut self) {
        let core = self.port.0.core();
        self.pump.run(core, STEPS);
        let mut lane = 0;
        while let Some(info) = core.lane(lane) {
            for source in &info.sources {
                let mut steps = STEPS;
                while core.ready(lane, source.token) == drystone_virtio::Next::Again {
                    steps = steps.checked_sub(1).expect("the device spins");
                }
            }
            lane += 1;
        }
        self.pump.run(core, STEPS);
    }

    fn place(&mut self, len: usize, writable: bool) -> u64 {
        let kind = usize::from(writable);
        if self.next[kind] + len as u64 > BUFFERS[kind].end {
            self.next[kind] = BUFFERS[kind].start;
        }
        let at = self.next[kind];
        self.next[kind] += len as u64 + 3;
        at
    }

    /// Makes a chain of readable pieces, and then writable ones of these lengths, available. False if the ring has no room.
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn add(&mut self, queue: u16, readable: &[&[u8]], writable: &[u32]) -> bool {
        let mut bufs = Vec::new();
        for piece in readable {
            let at = self.place(piece.len(), false);
            self.memory.write_slice(piece, GuestAddress(at)).unwrap();
            bufs.push((at, piece.len() as u32, 0));
        }
        for len in writable {
            let at = self.place(*len as usize, true);
            self.memory.write_slice(&vec![FRESH; *len as usize], GuestAddress(at)).unwrap();
            bufs.push((at, *len, WRITE));
        }
        let indirect = self.features & F_INDIRECT_DESC != 0 && bufs.len() > 1;
        let ring = &mut self.rings[usize::from(queue)];
        let Some(head) = ring.add(&bufs, indirect) else { return false };
        let places = bufs.iter().filter(|b| b.2 == WRITE).map(|b| (b.0, b.1)).collect();
        self.sent.insert((queue, head), places);
        if ring.wants_kick() {
            self.port.notify(queue);
        }
        true
    }

    /// Takes back a chain: what was written to it.
    ///
    /// # Panics
    /// If it was completed twice, or something else than it says was written.
    pub fn take(&mut self, queue: u16) -> Option<Vec<u8>> {
        let (head, written) = self.rings[usize::from(queue)].take()?;
        let places = self.sent.remove(&(queue, head)).expect("a chain that was sent");
        let mut all = Vec::new();
        for (at, len) in places {
            let mut piece = vec![0; len as usize];
            self.memory.read_slice(&mut piece, GuestAddress(at)).unwrap();
            all.extend(piece);
        }
        let rest = all.split_off(written as usize);
        assert!(self.dropped || rest.iter().all(|b| *b == FRESH), "more was written than the device says");
        Some(all)
    }

    /// Sends a frame, with a header of zeros.
    ///
    /// # Panics
    /// If the ring is full.
    pub fn send(&mut self, pair: u16, frame: &[u8]) {
        assert!(self.add(2 * pair + 1, &[&[0; FRAME_HEADER], frame], &[]));
    }

    /// The next frame that was received, with its header, put together from its buffers; and how many those are.
    ///
    /// # Panics
    /// If the buffers that its header names are not there.
    pub fn received(&mut self, pair: u16) -> Option<(Vec<u8>, u16)> {
        let mut frame = self.take(2 * pair)?;
        let buffers = u16::from_le_bytes([frame[10], frame[11]]);
        assert_ne!(buffers, 0);
        for _ in 1..buffers {
            frame.extend(self.take(2 * pair).expect("all buffers of a frame at once"));
        }
        Some((frame, buffers))
    }

    /// Gives a command, and its answer.
    ///
    /// # Panics
    /// If there is none.
    pub fn command(&mut self, class: u8, command: u8, data: &[u8]) -> u8 {
        let queue = self.rings.len() as u16 - 1;
        assert!(self.add(queue, &[&[class, command], data], &[1]));
        self.run();
        let answer = self.take(queue).expect("an answer");
        assert_eq!(answer.len(), 1);
        answer[0]
    }

    /// The configuration space's `status`.
    pub fn status(&self) -> u16 {
        let mut status = [0; 2];
        self.port.config_read(6, &mut status);
        u16::from_le_bytes(status)
    }

    /// Writes the device down and goes on with another one, on another cable.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn move_away(&mut self) {
        self.port.0.pause().unwrap();
        let state = self.port.0.save().unwrap();
        // As they were set while it ran.
        (self.config.rx_limit, self.config.tx_limit) = self.handle.limits();
        let Self { config, offloads, memory, pump, edges, log, clock, .. } = &*self;
        let (backend, ports, end) = wire(config.pairs, *offloads).unwrap();
        let network: Network = (backend, ports, end);
        let (port, handle, wire) = build(config, network, None, memory, pump, edges, log, clock);
        port.0.pause().unwrap();
        port.0.restore(state.clone()).unwrap();
        assert_eq!(port.0.save().unwrap(), state, "saved again it is the same");
        port.0.resume().unwrap();
        (self.port, self.handle, self.wire) = (port, handle, wire);
        self.run();
    }
}

#[allow(clippy::too_many_arguments)]
fn build(
    config: &NetConfig,
    (backend, ports, end): Network,
    hook: Option<Box<dyn Hook>>,
    memory: &Ram,
    pump: &Arc<Pump>,
    edges: &Arc<Edges>,
    log: &Arc<Log>,
    clock: &Arc<ManualClock>,
) -> Built {
    let (device, handle) = Net::<Ram>::with_hook(config, backend, ports, clock.clone(), hook).unwrap();
    let place = MmioConfig { base: 0xd000_0000, gsi: 5, index: 0, shared_memory: vec![] };
    let host = Host { observer: log.clone(), ..Host::new(pump.clone()) };
    let mmio = Mmio::new(place, Box::new(device), memory.clone(), edges.clone(), host).unwrap();
    (MmioPort(Arc::new(mmio)), handle, end)
}
