//! Images that take their time: who waits, for how long, and what becomes of guest memory.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_block::{Block, BlockConfig, BlockHandle, EngineKind, GrowError, Host, Image, Pieces};
use drystone_bus::ManualClock;
use drystone_state::Component;
use drystone_testkit::block::{DiskMachine, F_CONFIG_WCE, F_FLUSH, FEATURES, FLUSH, IN, OUT, WRITE_ZEROES};
use drystone_testkit::virtio::{DriverRing, Edges, MmioPort, Pump, Ram, Transport, WRITE, bring_up, ram};
use drystone_virtio::{Mmio, MmioConfig, NEEDS_RESET};
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress};

/// An image of sevens, whose every call waits until it is let through.
#[derive(Default)]
struct Gated {
    /// Calls that may pass, and those that came.
    state: Mutex<(usize, Vec<&'static str>)>,
    changed: Condvar,
}

impl Gated {
    fn enter(&self, what: &'static str) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.1.push(what);
        self.changed.notify_all();
        while state.0 == 0 {
            state = self.changed.wait(state).unwrap();
        }
        state.0 -= 1;
        Ok(())
    }
    fn let_through(&self, calls: usize) {
        self.state.lock().unwrap().0 += calls;
        self.changed.notify_all();
    }
    fn calls(&self) -> Vec<&'static str> {
        self.state.lock().unwrap().1.clone()
    }
    /// Waits until so many came.
    fn wait_for(&self, calls: usize) {
        let mut state = self.state.lock().unwrap();
        while state.1.len() < calls {
            let (next, time) = self.changed.wait_timeout(state, Duration::from_secs(60)).unwrap();
            assert!(!time.timed_out(), "only {:?}", next.1);
            state = next;
        }
    }
}

impl Image for Gated {
    fn size(&self) -> io::Result<u64> {
        Ok(1 << 20)
    }
    fn grow(&self, _: u64) -> Result<(), GrowError> {
        Err(GrowError::ReadOnly)
    }
    fn read(&self, _: u64, to: &mut Pieces<'_>) -> io::Result<()> {
        self.enter("read")?;
        to.iter().for_each(|piece| piece.copy_from(&vec![7u8; piece.len()]));
        Ok(())
    }
    fn write(&self, _: u64, _: &mut Pieces<'_>) -> io::Result<()> {
        self.enter("write")
    }
    fn flush(&self) -> io::Result<()> {
        self.enter("flush")
    }
    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        self.enter("discard")
    }
    fn write_zeroes(&self, _: u64, _: u64, _: bool) -> io::Result<()> {
        self.enter("zeroes")
    }
    fn close(&self) {}
}

struct Rig {
    memory: Ram,
    image: Arc<Gated>,
    port: MmioPort<Ram>,
    handle: BlockHandle,
    pump: Arc<Pump>,
    ring: DriverRing,
}

impl Rig {
    fn new(engine: EngineKind, features: u64, patience: Duration) -> Self {
        let image = Arc::new(Gated::default());
        let config = BlockConfig { engine, ..BlockConfig::new("slow", "not looked at") };
        let host =
            Host { clock: Arc::new(ManualClock::default()), on_failure: Arc::new(|_| ()), group: None };
        let (device, handle) = Block::on_image(&config, image.clone(), host).unwrap();
        let (memory, pump) = (ram(0x4_0000), Arc::new(Pump::default()));
        let place = MmioConfig { base: 0xd000_0000, gsi: 5, index: 0, shared_memory: vec![] };
        let host = drystone_virtio::Host { patience, ..drystone_virtio::Host::new(pump.clone()) };
        let mmio = Mmio::new(place, Box::new(device), memory.clone(), Arc::new(Edges::default()), host);
        let port = MmioPort(Arc::new(mmio.unwrap()));
        let ring = DriverRing::new(&memory, 0x1_0000, 64, false);
        bring_up(&port, &[&ring], features);
        let rig = Self { memory, image, port, handle, pump, ring };
        rig.serve();
        rig
    }

    fn serve(&self) {
        self.pump.run(self.port.0.core(), 100);
    }

    fn ask(&mut self, kind: u32, slot: u64) -> u64 {
        let at = 0x2_0000 + slot * 0x1000;
        let data = if kind == WRITE_ZEROES { DiskMachine::range(0, 1, 0).to_vec() } else { vec![] };
        self.memory.write_slice(&DiskMachine::head(kind, slot, &data), GuestAddress(at)).unwrap();
        self.memory.write_slice(&[0xee], GuestAddress(at + 0xf00)).unwrap();
        let mut bufs = vec![(at, 16 + data.len() as u32, 0)];
        match kind {
            IN => bufs.push((at + 0x200, 512, WRITE)),
            OUT => bufs.push((at + 0x200, 512, 0)),
            _ => {}
        }
        bufs.push((at + 0xf00, 1, WRITE));
        self.ring.add(&bufs, false).unwrap();
        self.port.notify(0);
        self.serve();
        at
    }

    fn data(&self, at: u64) -> [u8; 512] {
        let mut data = [0; 512];
        self.memory.read_slice(&mut data, GuestAddress(at + 0x200)).unwrap();
        data
    }

    fn status(&self, at: u64) -> u8 {
        self.memory.read_obj(GuestAddress(at + 0xf00)).unwrap()
    }
}

const PATIENT: Duration = Duration::from_secs(60);

/// The worker comes back at once, takes more, and a pause finishes all of it.
#[test]
fn threads_wait_in_the_place_of_the_worker() {
    let mut rig = Rig::new(EngineKind::Threads, FEATURES, PATIENT);
    let asked: Vec<u64> = (0..4).map(|slot| rig.ask(IN, slot)).collect();
    rig.image.wait_for(4);
    assert_eq!((rig.handle.in_flight(), rig.ring.take()), (4, None));
    let image = rig.image.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| rig.port.0.pause().unwrap());
        std::thread::sleep(Duration::from_millis(20));
        image.let_through(4);
    });
    assert_eq!(rig.handle.in_flight(), 0);
    for at in asked {
        assert_eq!((rig.status(at), rig.data(at)), (0, [7; 512]));
    }
}

/// What was not begun is dropped at once; what was begun is waited for as long as the VMM has patience, and then reported.
#[test]
fn a_reset_waits_for_what_the_host_has_and_no_longer_than_its_patience() {
    let patience = Duration::from_millis(100);
    let mut rig = Rig::new(EngineKind::Threads, FEATURES, patience);
    let asked: Vec<u64> = (0..20).map(|slot| rig.ask(IN, slot)).collect();
    rig.image.wait_for(16);
    let start = Instant::now();
    rig.port.set_status(0);
    assert!(start.elapsed() >= patience);
    assert_eq!(rig.port.status(), NEEDS_RESET, "some of it may still touch guest memory");
    rig.port.set_status(0);
    assert_eq!(rig.port.status(), NEEDS_RESET);
    rig.image.let_through(20);
    while rig.port.status() != 0 {
        rig.port.set_status(0);
        std::thread::yield_now();
    }
    // From here on nothing is touched.
    asked.iter().for_each(|at| rig.memory.write_slice(&[1; 512], GuestAddress(at + 0x200)).unwrap());
    std::thread::sleep(Duration::from_millis(20));
    assert!(asked.iter().all(|at| rig.data(*at) == [1; 512]));
    assert_eq!(rig.image.calls().len(), 16, "the others were never begun");
    rig.ring = DriverRing::new(&rig.memory, 0x1_0000, 64, false);
    bring_up(&rig.port, &[&rig.ring], FEATURES);
    let at = rig.ask(IN, 0);
    rig.port.0.pause().unwrap();
    assert_eq!((rig.status(at), rig.data(at)), (0, [7; 512]), "it is a disk again");
}

#[test]
fn what_writes_through_is_flushed_before_it_is_answered() {
    for engine in [EngineKind::Sync, EngineKind::Threads] {
        for (features, flushed) in
            [(F_FLUSH | F_CONFIG_WCE, false), (F_CONFIG_WCE, false), (F_FLUSH, false), (0, true)]
        {
            let mut rig = Rig::new(engine, features, PATIENT);
            rig.image.let_through(100);
            for kind in [OUT, WRITE_ZEROES, IN, FLUSH] {
                rig.ask(kind, u64::from(kind));
                rig.port.0.pause().unwrap();
                rig.port.0.resume().unwrap();
            }
            let through = ["write", "flush", "zeroes", "flush", "read", "flush"];
            let back = ["write", "zeroes", "read", "flush"];
            let wanted = if flushed { &through[..] } else { &back };
            assert_eq!(rig.image.calls(), wanted, "{engine:?} {features:#x}");
        }
    }
}

#[test]
fn an_image_without_a_file_is_for_threads() {
    let make = |engine| {
        let config = BlockConfig { engine, ..BlockConfig::new("odd", "not looked at") };
        let host =
            Host { clock: Arc::new(ManualClock::default()), on_failure: Arc::new(|_| ()), group: None };
        Block::<Ram>::on_image(&config, Arc::new(Gated::default()), host).map(|(_, handle)| handle.engine())
    };
    assert_eq!(make(EngineKind::Auto).unwrap(), EngineKind::Threads);
    let refused = make(EngineKind::IoUring).unwrap_err().to_string();
    assert_eq!(refused, "disk `odd`: cannot use the engine io_uring: unsupported");
}
