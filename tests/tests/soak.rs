//! Virtio devices for a long time: streams of what guests and operators do, held against models. Some seconds each; an hour with
//! `DRYSTONE_FULL=1`.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_block::{Block, BlockConfig, BlockHandle, EngineKind, Host, Image, Pieces, RawDisk};
use drystone_block_formats::{Backing, Format, FormatDisk, NewImage, create};
use drystone_bus::SystemClock;
use drystone_limit::{LimitConfig, Rate};
use drystone_runner::{Doorbells, Runner};
use drystone_state::Component;
use drystone_testkit::block::{
    DISCARD, DiskMachine, FEATURES, IN, OUT, UNMAP, WRITE_ZEROES, engine_or_threads,
};
use drystone_testkit::fuzz;
use drystone_testkit::virtio::{
    DriverRing, Edges, MmioPort, Plugged, Ram, Transport, WRITE, bring_up, ram, within,
};
use drystone_tests::full;
use drystone_virtio::{Mmio, MmioConfig};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress, VolatileSlice};

/// How long.
fn soak() -> Duration {
    Duration::from_secs(if full("an hour of soaking, instead of seconds") { 3600 } else { 4 })
}

/// For what hangs.
fn limit() -> Duration {
    soak() + Duration::from_secs(300)
}

/// Numbers that look random, from a seed that a failure names (SplitMix64).
struct Noise(u64);

impl Noise {
    fn new(name: &str) -> Self {
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = time.as_nanos() as u64;
        println!("{name}: seed {seed:#x}");
        Self(seed)
    }
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// One device for all the time: what it was through must not show.
fn stream(name: &str, mut step: impl FnMut(&[u8])) {
    let (mut noise, start, mut rounds) = (Noise::new(name), Instant::now(), 0u64);
    while start.elapsed() < soak() {
        let len = noise.below(4096) as usize;
        step(&noise.bytes(len));
        rounds += 1;
    }
    println!("{name}: {rounds} streams");
    assert!(rounds > 2, "{rounds} streams are none");
}

#[test]
fn entropy_through_streams_of_guest_operations() {
    within(limit(), || {
        let mut world = fuzz::entropy_world();
        stream("rng", |data| world.stream(data));
    });
}

#[test]
fn a_disk_through_streams_of_guest_operations() {
    within(limit(), || {
        let mut guest = fuzz::DiskGuest::new(false, EngineKind::Sync);
        stream("block", |data| guest.stream(data));
    });
}

const QUEUES: u16 = 4;
/// Requests of a queue at once.
const SLOTS: u64 = 8;
/// Sectors of the disk that each of those has for itself: they may end in any order.
const PART: u64 = 8;
/// Sectors of each queue's own part of the disk.
const SHARE: u64 = SLOTS * PART;
const SECTOR: u64 = 512;
const RING_SIZE: u16 = 32;

/// A disk on real threads, with the driver of all its queues.
struct Rig {
    memory: Ram,
    port: MmioPort<Ram>,
    handle: BlockHandle,
    doorbells: Arc<Doorbells>,
    image: Arc<dyn Image>,
    kept: Kept,
    rings: Vec<DriverRing>,
    /// What the disk should hold.
    oracle: Vec<u8>,
}

/// A request that was made: what it should give.
struct Asked {
    head: u16,
    at: u64,
    status: u64,
    read: Option<Vec<u8>>,
}

/// What the disk is kept in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    Raw,
    Qcow2,
}

impl Kept {
    /// A disk full of zeros.
    fn open(self, config: &BlockConfig, size: u64) -> Arc<dyn Image> {
        match self {
            Self::Raw => {
                let file = std::fs::File::create_new(&config.path).unwrap();
                file.write_all_at(&vec![0; size as usize], 0).unwrap();
                Arc::new(RawDisk::open(config).unwrap())
            }
            Self::Qcow2 => {
                create(&config.path, &NewImage { size: Some(size), backing: None }).unwrap();
                Arc::new(FormatDisk::open(config, Format::Qcow2, Backing::Refuse).unwrap())
            }
        }
    }
}

impl Rig {
    fn new(
        runner: &Runner,
        path: &Path,
        kept: Kept,
        engine: EngineKind,
        direct: bool,
    ) -> (Self, drystone_runner::Attachment) {
        let oracle = vec![0; (u64::from(QUEUES) * SHARE * SECTOR) as usize];
        let config = BlockConfig { queues: QUEUES, engine, direct, ..BlockConfig::new("soak", path) };
        let image = kept.open(&config, oracle.len() as u64);
        let host = Host {
            clock: Arc::new(SystemClock::new()),
            on_failure: Arc::new(|f| panic!("{f}")),
            group: None,
        };
        let (device, handle) = Block::<Ram>::on_image(&config, image.clone(), host).unwrap();
        let (memory, doorbells) = (ram(0x10_0000), Arc::new(Doorbells::new(QUEUES.into()).unwrap()));
        let place = MmioConfig { base: 0xd000_0000, gsi: 5, index: 0, shared_memory: vec![] };
        let host = drystone_virtio::Host::new(doorbells.clone());
        let mmio = Mmio::new(place, Box::new(device), memory.clone(), Arc::new(Edges::default()), host);
        let port = MmioPort(Arc::new(mmio.unwrap()));
        let attached = runner.attach(port.core(), &doorbells).unwrap();
        let mut rig = Self { memory, port, handle, doorbells, image, kept, rings: Vec::new(), oracle };
        rig.bring_up();
        (rig, attached)
    }

    fn bring_up(&mut self) {
        let ring = |q: u16| DriverRing::new(&self.memory, 0x1_0000 * (1 + u64::from(q)), RING_SIZE, true);
        self.rings = (0..QUEUES).map(ring).collect();
        bring_up(&self.port, &self.rings.iter().collect::<Vec<_>>(), FEATURES);
    }

    /// Makes some requests of a queue, for its own part of the disk, and tells the device.
    fn ask(&mut self, queue: u16, noise: &mut Noise) -> Vec<Asked> {
        let count = 1 + noise.below(SLOTS);
        let all = (0..count).map(|slot| self.ask_one(queue, slot, noise)).collect();
        if self.rings[usize::from(queue)].wants_kick() {
            self.doorbells.event(queue).unwrap().write(1).unwrap();
        }
        all
    }

    fn ask_one(&mut self, queue: u16, slot: u64, noise: &mut Noise) -> Asked {
        let len = SECTOR * (1 + noise.below(PART / 2));
        let sector = u64::from(queue) * SHARE + slot * PART + noise.below(PART / 2);
        let at = 0x8_0000 + 0x1_0000 * u64::from(queue) + 0x2000 * slot;
        let on_disk = (sector * SECTOR) as usize..(sector * SECTOR + len) as usize;
        // Sometimes where direct I/O can take it.
        let data = at + if noise.below(2) == 0 { 0x1000 } else { 0x100 };
        let status = at + 0xf00;
        self.memory.write_slice(&[0xee], GuestAddress(status)).unwrap();
        let (kind, mut bufs, read) = match noise.below(8) {
            0..=2 => {
                let bytes = noise.bytes(len as usize);
                self.memory.write_slice(&bytes, GuestAddress(data)).unwrap();
                self.oracle[on_disk.clone()].copy_from_slice(&bytes);
                (OUT, vec![(data, len as u32, 0)], None)
            }
            3..=5 => (IN, vec![(data, len as u32, WRITE)], Some(self.oracle[on_disk.clone()].to_vec())),
            other => {
                // What is discarded of less than a cluster stays as it is.
                let kind = if other == 6 && self.kept == Kept::Raw { DISCARD } else { WRITE_ZEROES };
                let flags = if kind == WRITE_ZEROES && noise.below(2) == 0 { UNMAP } else { 0 };
                let range = DiskMachine::range(sector, (len / SECTOR) as u32, flags);
                self.memory.write_slice(&range, GuestAddress(data)).unwrap();
                self.oracle[on_disk].fill(0);
                (kind, vec![(data, 16, 0)], None)
            }
        };
        let head = DiskMachine::head(kind, sector, &[]);
        self.memory.write_slice(&head, GuestAddress(at)).unwrap();
        bufs.insert(0, (at, 16, 0));
        bufs.push((status, 1, WRITE));
        let head = self.rings[usize::from(queue)].add(&bufs, noise.below(2) == 0).expect("room");
        Asked { head, at: data, status, read }
    }

    /// Waits for the answers, in any order, and looks at each.
    fn check(&mut self, queue: u16, mut asked: Vec<Asked>) {
        while !asked.is_empty() {
            let Some((answered, _)) = self.rings[usize::from(queue)].take() else {
                std::thread::yield_now();
                continue;
            };
            let which =
                asked.iter().position(|a| a.head == answered).expect("an answer that nobody waits for");
            let Asked { head: _, at, status, read } = asked.swap_remove(which);
            let status: u8 = self.memory.read_obj(GuestAddress(status)).unwrap();
            assert_eq!(status, 0);
            if let Some(expected) = read {
                let mut data = vec![0; expected.len()];
                self.memory.read_slice(&mut data, GuestAddress(at)).unwrap();
                assert!(data == expected, "a read gave something else");
            }
        }
    }

    fn content(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.oracle.len()];
        self.image.read(0, &mut Pieces::from_slices(&[VolatileSlice::from(&mut *bytes)])).unwrap();
        bytes
    }

    fn all_memory(&self) -> Vec<u8> {
        let mut memory = vec![0; 0x10_0000];
        self.memory.read_slice(&mut memory, GuestAddress(0)).unwrap();
        memory
    }

    /// With requests in flight. When the status reads 0 nothing is touched any more, whatever became of them.
    fn reset(&mut self) {
        self.port.set_status(0);
        assert_eq!(self.port.status(), 0);
        let (memory, content) = (self.all_memory(), self.content());
        std::thread::sleep(Duration::from_millis(2));
        assert!(memory == self.all_memory() && content == self.content(), "touched after a reset");
        self.oracle = content;
        self.bring_up();
    }
}

/// Pauses the machine and changes limits, for as long as `go_on` says.
fn operate(port: &MmioPort<Ram>, handle: &BlockHandle, go_on: &AtomicBool) {
    let mut noise = Noise::new("operator");
    let nap = |noise: &mut Noise| std::thread::sleep(Duration::from_micros(noise.below(3000)));
    while go_on.load(Ordering::Relaxed) {
        nap(&mut noise);
        match noise.below(4) {
            0 => handle.set_limit(LimitConfig { bandwidth: Rate::new(4 << 20), operations: Rate::new(2000) }),
            1 => handle.set_limit(LimitConfig::default()),
            2 => drop(handle.reread_size()),
            _ => {
                port.0.pause().unwrap();
                nap(&mut noise);
                port.0.resume().unwrap();
            }
        }
    }
    handle.set_limit(LimitConfig::default());
}

/// Ends what others do, also when this thread fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Workers on threads of their own, an operator on another, and a driver that resets the device with requests in flight.
fn paused_limited_and_reset(kept: Kept, engine: EngineKind, direct: bool) {
    within(limit(), move || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let runner = Runner::new("soak", NonZeroUsize::new(2).unwrap()).unwrap();
        let (mut rig, attached) = Rig::new(&runner, &path, kept, engine_or_threads(engine), direct);
        let (go_on, port, handle) = (AtomicBool::new(true), rig.port.clone(), rig.handle.clone());
        std::thread::scope(|scope| {
            let operator = scope.spawn(|| operate(&port, &handle, &go_on));
            let end = End(&go_on);
            let (mut noise, start, mut batches) = (Noise::new("driver"), Instant::now(), 0u64);
            while start.elapsed() < soak() && !operator.is_finished() {
                let asked: Vec<_> = (0..QUEUES).map(|q| (q, rig.ask(q, &mut noise))).collect();
                if noise.below(16) == 0 {
                    rig.reset();
                } else {
                    asked.into_iter().for_each(|(queue, asked)| rig.check(queue, asked));
                    batches += 1;
                }
            }
            drop(end);
            operator.join().unwrap();
            println!("{batches} batches");
            assert!(batches > 2);
        });
        assert!(rig.content() == rig.oracle, "the disk is not what was written");
        if kept == Kept::Qcow2 {
            rig.image.close();
            drop((attached, rig));
            is_whole(path);
        }
    });
}

/// Threads that served it may be just about to let go of the image.
fn is_whole(path: PathBuf) {
    let words = ["check", "-f", "qcow2"];
    loop {
        let output = match std::process::Command::new("qemu-img").args(words).arg(&path).output() {
            Ok(output) => output,
            Err(e) => return eprintln!("NOT RUN: there is no qemu-img to look at the image: {e}"),
        };
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if !said.contains("lock") {
            return assert!(output.status.success(), "{said}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_disk_in_qcow2_is_paused_limited_and_reset() {
    paused_limited_and_reset(Kept::Qcow2, EngineKind::Threads, false);
}

#[test]
fn a_disk_on_threads_is_paused_limited_and_reset() {
    paused_limited_and_reset(Kept::Raw, EngineKind::Sync, false);
}

#[test]
fn a_disk_whose_threads_wait_is_paused_limited_and_reset() {
    paused_limited_and_reset(Kept::Raw, EngineKind::Threads, false);
}

#[test]
fn a_disk_on_io_uring_is_paused_limited_and_reset() {
    paused_limited_and_reset(Kept::Raw, EngineKind::IoUring, false);
}

/// As far as the file system of temporary files can.
#[test]
fn a_disk_on_io_uring_without_the_hosts_cache_is_paused_limited_and_reset() {
    paused_limited_and_reset(Kept::Raw, EngineKind::IoUring, true);
}
