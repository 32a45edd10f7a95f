//! Engines on files of the host that fail, that give a little at a time, or that never answer: what a host does on a bad day.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_block::{
    Block, BlockConfig, BlockHandle, Engine, EngineKind, Host, Image, RawDisk, SyncEngine, ThreadEngine,
    ThreadPool, UringEngine,
};
use drystone_bus::ManualClock;
use drystone_state::Component;
use drystone_testkit::block::{
    DiskMachine, F_CONFIG_WCE, F_FLUSH, FEATURES, FLUSH, IN, OUT, engine_or_threads,
};
use drystone_testkit::virtio::{
    DriverRing, Edges, Log, MmioPort, Pump, Ram, Transport, WRITE, bring_up, ram,
};
use drystone_virtio::{Mmio, MmioConfig};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress};

const PATIENT: Duration = Duration::from_secs(60);
const QUEUES: u16 = 2;

/// A disk whose every queue has a file of its own.
struct Rig {
    memory: Ram,
    port: MmioPort<Ram>,
    handle: BlockHandle,
    pump: Arc<Pump>,
    log: Arc<Log>,
    rings: Vec<DriverRing>,
}

fn has_uring() -> bool {
    engine_or_threads(EngineKind::IoUring) == EngineKind::IoUring
}

impl Rig {
    fn new(files: [File; QUEUES as usize], features: u64, patience: Duration) -> Self {
        Self::with(EngineKind::IoUring, files, features, patience)
    }

    fn with(kind: EngineKind, files: [File; QUEUES as usize], features: u64, patience: Duration) -> Self {
        let config = BlockConfig { queues: QUEUES, ..BlockConfig::new("odd", "not looked at") };
        let host =
            Host { clock: Arc::new(ManualClock::default()), on_failure: Arc::new(|_| ()), group: None };
        let engine = |file| -> Box<dyn Engine<Ram>> {
            let disk = Arc::new(RawDisk::on_file(file, false));
            match kind {
                EngineKind::Sync => Box::new(SyncEngine::new(disk)),
                EngineKind::Threads => {
                    Box::new(ThreadEngine::new(Arc::new(ThreadPool::new("odd", disk, 4))).unwrap())
                }
                _ => Box::new(UringEngine::new(disk, 16).unwrap()),
            }
        };
        let engines = files.into_iter().map(engine).collect();
        let (device, handle) = Block::with_engines(&config, 1 << 40, engines, host).unwrap();
        let (memory, pump, log) = (ram(0x8_0000), Arc::new(Pump::default()), Arc::new(Log::default()));
        let place = MmioConfig { base: 0xd000_0000, gsi: 5, index: 0, shared_memory: vec![] };
        let host = drystone_virtio::Host {
            patience,
            observer: log.clone(),
            ..drystone_virtio::Host::new(pump.clone())
        };
        let mmio = Mmio::new(place, Box::new(device), memory.clone(), Arc::new(Edges::default()), host);
        let port = MmioPort(Arc::new(mmio.unwrap()));
        let rings = Vec::new();
        let mut rig = Self { memory, port, handle, pump, log, rings };
        rig.start(features);
        rig
    }

    fn start(&mut self, features: u64) {
        let ring = |queue: u16| DriverRing::new(&self.memory, 0x1_0000 * (1 + u64::from(queue)), 16, false);
        self.rings = (0..QUEUES).map(ring).collect();
        bring_up(&self.port, &self.rings.iter().collect::<Vec<_>>(), features);
        self.serve();
    }

    fn serve(&self) {
        self.pump.run(self.port.0.core(), 100);
    }

    /// A request of 4 KiB of a queue, at its own place in guest memory, which is returned.
    fn ask(&mut self, queue: u16, kind: u32, sector: u64) -> u64 {
        let at = 0x4_0000 + u64::from(queue) * 0x1_0000 + u64::from(kind) * 0x2000;
        self.memory.write_slice(&DiskMachine::head(kind, sector, &[]), GuestAddress(at)).unwrap();
        self.memory.write_slice(&[0xee], GuestAddress(at + 0xf00)).unwrap();
        let mut bufs = vec![(at, 16, 0)];
        match kind {
            IN => bufs.push((at + 0x1000, 4096, WRITE)),
            OUT => bufs.push((at + 0x1000, 4096, 0)),
            _ => {}
        }
        bufs.push((at + 0xf00, 1, WRITE));
        let ring = &mut self.rings[usize::from(queue)];
        while ring.take().is_some() {}
        ring.add(&bufs, false).unwrap();
        self.port.notify(queue);
        self.serve();
        at
    }

    fn look(&self) {
        let core = self.port.0.core();
        for lane in 0..core.lanes() {
            for source in core.lane(lane).map(|l| l.sources.clone()).unwrap_or_default() {
                let _ = core.ready(lane, source.token);
            }
        }
        self.serve();
    }

    /// The status of the request at `at`, once it has one.
    fn status(&self, at: u64) -> u8 {
        let begun = Instant::now();
        loop {
            self.look();
            let status: u8 = self.memory.read_obj(GuestAddress(at + 0xf00)).unwrap();
            if status != 0xee {
                return status;
            }
            assert!(begun.elapsed() < PATIENT, "no answer");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_answered(&self, at: u64) -> bool {
        self.look();
        self.memory.read_obj::<u8>(GuestAddress(at + 0xf00)).unwrap() != 0xee
    }

    fn data(&self, at: u64) -> Vec<u8> {
        let mut data = vec![0; 4096];
        self.memory.read_slice(&mut data, GuestAddress(at + 0x1000)).unwrap();
        data
    }
}

fn device(path: &str) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

/// A file that gives what is written to the other end, and nothing else.
fn pipe() -> (File, File) {
    let (read, write) = std::io::pipe().unwrap();
    (File::from(OwnedFd::from(read)), File::from(OwnedFd::from(write)))
}

fn good() -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    file
}

/// The host can take no more, or fails at what it has: the guest is told, the operator is told, and the other queue goes on.
#[test]
fn a_queue_that_the_host_fails_leaves_the_other_one_working() {
    let kinds = [EngineKind::Sync, EngineKind::Threads].into_iter();
    kinds.chain(has_uring().then_some(EngineKind::IoUring)).for_each(fails_alone);
}

fn fails_alone(engine: EngineKind) {
    // Nothing is mapped at its beginning: EIO.
    for (file, kind, what) in [
        ("/dev/full", OUT, "write: No space left on device"),
        ("/proc/self/mem", OUT, "write: Input/output error"),
        ("/proc/self/mem", IN, "read: Input/output error"),
        ("/dev/null", IN, "read: unexpected end of file"),
    ] {
        let mut rig = Rig::with(engine, [device(file), good()], FEATURES, PATIENT);
        for _ in 0..3 {
            let bad = rig.ask(0, kind, 0);
            assert_eq!(rig.status(bad), 1, "{engine:?} {file} {what}");
            for kind in [OUT, IN, FLUSH] {
                let fine = rig.ask(1, kind, 8);
                assert_eq!(rig.status(fine), 0, "the other queue, beside {file}");
            }
        }
        let said = rig.log.take();
        assert!(said.iter().any(|line| line.contains(what)), "{said:?}");
        let errors: Vec<_> = rig.handle.counters().iter().map(|queue| queue.errors.get()).collect();
        assert_eq!(errors, [3, 0], "{file}");
    }
}

/// A host may do less than it was asked for, as often as it likes.
#[test]
fn what_is_done_in_parts_is_whole_when_it_is_answered() {
    if !has_uring() {
        return;
    }
    let (read, mut write) = pipe();
    let mut rig = Rig::new([read, good()], FEATURES, PATIENT);
    let at = rig.ask(0, IN, 0);
    let content: Vec<u8> = (0..4096u32).map(|i| (i / 7) as u8).collect();
    for part in content.chunks(1000) {
        assert!(!rig.is_answered(at), "before all is there");
        write.write_all(part).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!((rig.status(at), rig.data(at)), (0, content));
    // The end of it is an error, and not a short answer.
    let at = rig.ask(0, IN, 0);
    write.write_all(&[1; 100]).unwrap();
    drop(write);
    assert_eq!(rig.status(at), 1);
}

/// A request that the host does not end: a pause says so and leaves the device running, and ends when the host does.
#[test]
fn a_pause_reports_what_hangs_and_the_device_goes_on() {
    if !has_uring() {
        return;
    }
    let (read, mut write) = pipe();
    let mut rig = Rig::new([read, good()], FEATURES, Duration::from_millis(100));
    let hangs = rig.ask(0, IN, 0);
    assert!(rig.port.0.pause().is_err());
    let said = rig.log.take();
    assert!(said.iter().any(|line| line.contains("1 request")), "{said:?}");
    // Neither this queue nor the other has stopped.
    let fine = rig.ask(1, IN, 0);
    assert_eq!(rig.status(fine), 0);
    assert!(rig.port.0.pause().is_err() && rig.log.take().is_empty(), "said once");
    write.write_all(&[7; 4096]).unwrap();
    assert_eq!((rig.status(hangs), rig.data(hangs)), (0, vec![7; 4096]));
    rig.port.0.pause().unwrap();
    rig.port.0.resume().unwrap();
    let fine = rig.ask(1, OUT, 0);
    assert_eq!(rig.status(fine), 0);
}

/// A reset has the host give it up, and touches guest memory no more.
#[test]
fn a_reset_takes_back_what_hangs() {
    if !has_uring() {
        return;
    }
    let (read, mut write) = pipe();
    let mut rig = Rig::new([read, good()], FEATURES, PATIENT);
    let hangs = rig.ask(0, IN, 0);
    rig.port.set_status(0);
    assert_eq!(rig.port.status(), 0, "over");
    rig.memory.write_slice(&[1; 4096], GuestAddress(hangs + 0x1000)).unwrap();
    write.write_all(&[7; 4096]).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(rig.data(hangs), [1; 4096]);
    rig.start(FEATURES);
    let at = rig.ask(0, IN, 0);
    assert_eq!((rig.status(at), rig.data(at)), (0, vec![7; 4096]), "nobody else has taken it");
}

/// Writes go to where nothing can be synced, so a write that is answered well was not.
#[test]
fn what_writes_through_is_synced_before_it_is_answered() {
    if !has_uring() {
        return;
    }
    for (features, synced) in
        [(F_FLUSH | F_CONFIG_WCE, false), (F_CONFIG_WCE, false), (F_FLUSH, false), (0, true)]
    {
        let mut rig = Rig::new([device("/dev/null"), good()], features, PATIENT);
        let at = rig.ask(0, OUT, 0);
        assert_eq!(rig.status(at), u8::from(synced), "{features:#x}");
        let said = rig.log.take();
        assert_eq!(said.iter().any(|line| line.contains("write: Invalid argument")), synced, "{said:?}");
        // What cannot be synced once is not trusted again.
        if synced {
            let at = rig.ask(0, OUT, 0);
            assert_eq!(rig.status(at), 1);
            let said = rig.log.take();
            assert!(said.iter().all(|line| line.contains("an earlier flush failed")), "{said:?}");
        }
    }
}

/// The host closes a ring some time after whoever used it has ended. Until then the ring has a file, but not the one with the lock.
#[test]
fn a_ring_that_lives_on_holds_no_lock() {
    if !has_uring() {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let config = BlockConfig::new("root", file.path());
    let disk = Arc::new(RawDisk::open(&config).unwrap());
    let engine = UringEngine::<Ram>::new(disk.clone(), 16).unwrap();
    let ring = engine.source(0).unwrap();
    assert!(RawDisk::open(&config).is_err(), "locked");
    drop((engine, disk));
    let disk = RawDisk::open(&config).expect("free at once");
    assert_eq!(disk.size().unwrap(), 1 << 20);
    drop(ring);
}
