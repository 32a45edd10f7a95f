//! A machine of one virtio disk and a guest that makes requests of it, over virtio-mmio.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use crate::virtio::{Buf, DriverRing, Edges, Log, MmioPort, Pump, Ram, Transport, WRITE, bring_up, ram};
use drystone_block::{
    Block, BlockConfig, BlockError, BlockHandle, EngineKind, Host, OnIoError, RawDisk, UringEngine,
};
use drystone_bus::ManualClock;
use drystone_limit::LimitGroup;
use drystone_state::{Component, Persist};
use drystone_virtio::{F_EVENT_IDX, F_INDIRECT_DESC, Mmio, MmioConfig, MmioState, NEEDS_RESET};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;
use vm_memory::{Bytes, GuestAddress};

/// VIRTIO_BLK_T_IN.
pub const IN: u32 = 0;
/// VIRTIO_BLK_T_OUT.
pub const OUT: u32 = 1;
/// VIRTIO_BLK_T_FLUSH.
pub const FLUSH: u32 = 4;
/// VIRTIO_BLK_T_GET_ID.
pub const GET_ID: u32 = 8;
/// VIRTIO_BLK_T_DISCARD.
pub const DISCARD: u32 = 11;
/// VIRTIO_BLK_T_WRITE_ZEROES.
pub const WRITE_ZEROES: u32 = 13;
/// VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP.
pub const UNMAP: u32 = 1;
/// VIRTIO_BLK_F_FLUSH.
pub const F_FLUSH: u64 = 1 << 9;
/// VIRTIO_BLK_F_CONFIG_WCE.
pub const F_CONFIG_WCE: u64 = 1 << 11;
/// What the status byte holds until the device answers.
pub const UNANSWERED: u8 = 0xee;

/// Length of guest memory.
pub const MEMORY: u64 = 0x20_0000;
/// Up to here the driver uses it.
pub const LEAST_MEMORY: u64 = SLOTS + SLOT * QUEUE_SIZE as u64;
const RING: u64 = 0x1_0000;
/// Where requests have their pieces, a slot for each head.
const SLOTS: u64 = 0x2_0000;
const SLOT: u64 = 0x4000;
const QUEUE_SIZE: u16 = 16;
const STEPS: u32 = 1000;
/// For an engine that hangs.
const LIMIT: Duration = Duration::from_secs(120);
/// What the driver takes unless told otherwise.
pub const FEATURES: u64 = F_FLUSH | F_CONFIG_WCE | F_EVENT_IDX | F_INDIRECT_DESC;

/// The machine.
pub struct DiskMachine {
    /// Guest memory.
    pub memory: Ram,
    /// The device as the driver sees it.
    pub port: MmioPort<Ram>,
    /// The device as the VMM sees it.
    pub handle: BlockHandle,
    /// The event loop.
    pub pump: Arc<Pump>,
    /// Its interrupts.
    pub edges: Arc<Edges>,
    /// What the device has said.
    pub log: Arc<Log>,
    /// Time for rate limits.
    pub clock: Arc<ManualClock>,
    /// The driver's half of queue 0.
    pub ring: DriverRing,
    /// The disk.
    pub image: NamedTempFile,
    /// Failures that are to stop the machine.
    pub failures: Arc<Mutex<Vec<String>>>,
    config: BlockConfig,
    features: u64,
    group: Option<LimitGroup>,
}

/// A request whose answer is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Its head.
    pub head: u16,
    /// Where its data for the device to write is.
    pub into: u64,
    /// How much.
    pub len: u32,
}

/// What the device made of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status byte.
    pub status: u8,
    /// The data before it.
    pub data: Vec<u8>,
    /// What the used ring says was written.
    pub written: u32,
}

impl DiskMachine {
    /// A disk with this content, and a driver that has brought it up.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn new(content: &[u8], change: impl FnOnce(&mut BlockConfig)) -> Self {
        Self::in_memory(ram(MEMORY as usize), content, change)
    }

    /// The same in this memory, which reaches from 0 to [`LEAST_MEMORY`] at least.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn in_memory(memory: Ram, content: &[u8], change: impl FnOnce(&mut BlockConfig)) -> Self {
        Self::build(memory, content, change, Arc::default(), None)
    }

    /// One whose limit others share, on the clock of their group.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn in_group(
        group: &LimitGroup,
        clock: &Arc<ManualClock>,
        content: &[u8],
        change: impl FnOnce(&mut BlockConfig),
    ) -> Self {
        Self::build(ram(MEMORY as usize), content, change, clock.clone(), Some(group.clone()))
    }

    fn build(
        memory: Ram,
        content: &[u8],
        change: impl FnOnce(&mut BlockConfig),
        clock: Arc<ManualClock>,
        group: Option<LimitGroup>,
    ) -> Self {
        let image = temporary();
        image.as_file().write_all_at(content, 0).expect("a disk image");
        let config = BlockConfig::new("root", image.path());
        // One thing at a time, unless a test asks for more.
        let mut config = BlockConfig { queue_size: QUEUE_SIZE, engine: EngineKind::Sync, ..config };
        change(&mut config);
        let failures = Arc::<Mutex<Vec<String>>>::default();
        let (pump, edges, log) = (Arc::default(), Arc::default(), Arc::default());
        let host = host(&clock, &failures, &group);
        let (port, handle) = build(Block::open, host, &config, &memory, &pump, &edges, &log);
        let ring = DriverRing::new(&memory, RING, QUEUE_SIZE, true);
        let features = FEATURES;
        let mut machine = Self {
            memory,
            port,
            handle,
            pump,
            edges,
            log,
            clock,
            ring,
            image,
            failures,
            config,
            features,
            group,
        };
        machine.start(FEATURES);
        machine
    }

    /// Resets the device and brings it up with these features.
    pub fn start(&mut self, features: u64) {
        self.ring = DriverRing::new(&self.memory, RING, QUEUE_SIZE, features & F_EVENT_IDX != 0);
        self.features = features;
        bring_up(&self.port, &[&self.ring], features);
        self.serve();
    }

    /// Makes a request of these readable pieces, of which the first is the header, and room for `len` bytes and a status.
    /// `cut` splits both. `None` if the ring is full.
    pub fn ask(&mut self, readable: &[u8], len: u32, cut: u32, indirect: bool) -> Option<Asked> {
        let slot = SLOTS + SLOT * u64::from(self.ring.next_avail() % QUEUE_SIZE);
        let (out, into) = (slot, slot + SLOT / 2);
        let mut bufs = Vec::new();
        for (at, all, flags) in [(out, readable.len() as u32, 0), (into, len + 1, WRITE)] {
            let cut = cut.min(all);
            let pieces = [(at, cut, flags), (at + u64::from(cut), all - cut, flags)];
            bufs.extend(pieces.into_iter().filter(|p| p.1 > 0));
        }
        // In a full ring the slot is that of a request that waits.
        if !self.ring.has_room(&bufs, indirect) {
            return None;
        }
        self.memory.write_slice(readable, GuestAddress(out)).unwrap();
        self.memory.write_slice(&vec![UNANSWERED; len as usize + 1], GuestAddress(into)).unwrap();
        let head = self.ring.add(&bufs, indirect)?;
        Some(Asked { head, into, len })
    }

    /// The header of a request, and data after it.
    pub fn head(kind: u32, sector: u64, data: &[u8]) -> Vec<u8> {
        [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes(), data].concat()
    }

    /// What follows the header of a request to discard or to write zeros.
    pub fn range(sector: u64, sectors: u32, flags: u32) -> [u8; 16] {
        let mut range = [0; 16];
        range[..8].copy_from_slice(&sector.to_le_bytes());
        range[8..12].copy_from_slice(&sectors.to_le_bytes());
        range[12..].copy_from_slice(&flags.to_le_bytes());
        range
    }

    /// Tells the device, and serves it until it is idle.
    pub fn kick(&self) {
        self.port.notify(0);
        self.serve();
    }

    /// Serves the device until it is idle, and its engines have nothing to do.
    ///
    /// # Panics
    /// If an engine does not come to an end.
    pub fn serve(&self) {
        let (core, start) = (self.port.0.core(), Instant::now());
        self.pump.run(core, STEPS);
        // A broken queue is not asked for what it has.
        while self.handle.in_flight() > 0 && self.port.status() & NEEDS_RESET == 0 {
            assert!(start.elapsed() < LIMIT, "an engine hangs");
            std::thread::yield_now();
            // Not the device's own messages, in lane 0.
            for lane in 1..core.lanes() {
                for source in core.lane(lane).map(|l| l.sources.clone()).unwrap_or_default() {
                    let _ = core.ready(lane, source.token);
                }
            }
            self.pump.run(core, STEPS);
        }
    }

    /// As if a timer or a message had woken every worker.
    pub fn wake(&self) {
        let core = self.port.0.core();
        for lane in 0..core.lanes() {
            for source in core.lane(lane).map(|l| l.sources.clone()).unwrap_or_default() {
                while core.ready(lane, source.token) == drystone_virtio::Next::Again {}
            }
        }
        self.serve();
    }

    /// What became of a request, once the ring says that it has ended.
    pub fn answer(&self, asked: Asked, written: u32) -> Answer {
        let mut data = vec![0; asked.len as usize + 1];
        self.memory.read_slice(&mut data, GuestAddress(asked.into)).unwrap();
        let status = data.pop().unwrap();
        Answer { status, data, written }
    }

    /// Makes one request and waits for its answer; `None` if there is none.
    pub fn request(&mut self, readable: &[u8], len: u32) -> Option<Answer> {
        let asked = self.ask(readable, len, 16, false).expect("room in the ring");
        self.kick();
        let (head, written) = self.ring.take()?;
        assert_eq!(head, asked.head);
        Some(self.answer(asked, written))
    }

    /// Makes a request of any pieces (address, length, flags) and returns what the used ring says was written to it.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn raw(&mut self, bufs: &[Buf]) -> u32 {
        let head = self.ring.add(bufs, false).expect("room in the ring");
        self.kick();
        let (answered, written) = self.ring.take().expect("an answer");
        assert_eq!(answered, head);
        written
    }

    /// Reads sectors. The status is the error.
    ///
    /// # Errors
    /// The status, if it is not 0.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn read(&mut self, sector: u64, len: u32) -> Result<Vec<u8>, u8> {
        let answer = self.request(&Self::head(IN, sector, &[]), len).expect("an answer");
        if answer.status == 0 { Ok(answer.data) } else { Err(answer.status) }
    }

    /// Writes sectors and returns the status.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn write(&mut self, sector: u64, data: &[u8]) -> u8 {
        self.request(&Self::head(OUT, sector, data), 0).expect("an answer").status
    }

    /// Pauses, saves, and goes on in a newly built device: as a move to another machine.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn relocate(&mut self) {
        self.port.0.pause().unwrap();
        let state: MmioState = self.port.0.save().unwrap();
        // The old device holds the lock on the image.
        (self.port, self.handle) = self.again(Block::pulled);
        (self.port, self.handle) = self.again(Block::open);
        self.port.0.restore(crate::as_written(&state)).unwrap();
        self.port.0.resume().unwrap();
        self.wake();
    }

    /// Pauses and resumes.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn pause(&self) {
        self.port.0.pause().unwrap();
        self.port.0.resume().unwrap();
        self.wake();
    }

    /// What the image holds now.
    pub fn content(&self) -> Vec<u8> {
        std::fs::read(self.image.path()).unwrap()
    }

    /// What happens when the host fails a request.
    pub fn on_io_error(&self) -> OnIoError {
        self.config.on_io_error
    }

    fn again(&self, open: Open) -> (MmioPort<Ram>, BlockHandle) {
        let Self { config, memory, pump, edges, log, clock, failures, group, .. } = self;
        build(open, host(clock, failures, group), config, memory, pump, edges, log)
    }
}

/// `wanted`, or threads where the host permits no io_uring, which it then says.
///
/// # Panics
/// If there is no file to try it on.
pub fn engine_or_threads(wanted: EngineKind) -> EngineKind {
    if wanted != EngineKind::IoUring {
        return wanted;
    }
    let file = temporary();
    file.as_file().set_len(512).expect("a disk image");
    let disk = RawDisk::open(&BlockConfig::new("probe", file.path())).expect("a disk");
    match UringEngine::<Ram>::new(Arc::new(disk), 1) {
        Ok(_) => wanted,
        Err(why) => {
            eprintln!("NOT RUN: this host permits no io_uring ({why}): threads instead");
            EngineKind::Threads
        }
    }
}

/// A file that is in memory where the host has a place for such files: a fuzzer would spend most of its time with a file system.
fn temporary() -> NamedTempFile {
    NamedTempFile::new_in("/dev/shm").or_else(|_| NamedTempFile::new()).expect("a disk image")
}

/// What makes a device.
type Open = fn(&BlockConfig, Host) -> Result<(Block<Ram>, BlockHandle), BlockError>;

fn host(clock: &Arc<ManualClock>, failures: &Arc<Mutex<Vec<String>>>, group: &Option<LimitGroup>) -> Host {
    let failures = failures.clone();
    Host {
        clock: clock.clone(),
        on_failure: Arc::new(move |failure| failures.lock().unwrap().push(failure.to_string())),
        group: group.clone(),
    }
}

fn build(
    open: Open,
    host: Host,
    config: &BlockConfig,
    memory: &Ram,
    pump: &Arc<Pump>,
    edges: &Arc<Edges>,
    log: &Arc<Log>,
) -> (MmioPort<Ram>, BlockHandle) {
    let (device, handle) = open(config, host).unwrap_or_else(|e| panic!("{e}"));
    let place = MmioConfig { base: 0xd000_0000, gsi: 5, index: 0, shared_memory: Vec::new() };
    let host = drystone_virtio::Host { observer: log.clone(), ..drystone_virtio::Host::new(pump.clone()) };
    let mmio = Mmio::new(place, Box::new(device), memory.clone(), edges.clone(), host).unwrap();
    (MmioPort(Arc::new(mmio)), handle)
}
