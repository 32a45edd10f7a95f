use super::*;
use crate::{VcpuError, VcpuEventKind};
use drystone_bus::{BusDevice, Effect};
use drystone_hypervisor::fake::{FakeHypervisor, GuestCpu};
use drystone_hypervisor::{Hypervisor, Regs, VmConfig};
use std::sync::atomic::AtomicU32;
use std::sync::mpsc::{self, Receiver};

mod barrier;
mod events;
mod options;
mod state;

/// Counts what the guest does.
const COUNT: u16 = 0x10;
/// A write of 1 asks for a reset, of 2 for power-off.
const POWER: u16 = 0x20;

/// Devices at [`COUNT`] and [`POWER`]; knows when no guest may run.
#[derive(Default)]
struct Board {
    counts: AtomicU64,
    frozen: AtomicBool,
    violations: AtomicU64,
}

struct Counter(Arc<Board>);
impl BusDevice for Counter {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }
    fn write(&self, _: u64, _: &[u8]) -> Effect {
        if self.0.frozen.load(Ordering::SeqCst) {
            self.0.violations.fetch_add(1, Ordering::SeqCst);
        }
        self.0.counts.fetch_add(1, Ordering::SeqCst);
        Effect::None
    }
}

struct Power;
impl BusDevice for Power {
    fn read(&self, _: u64, _: &mut [u8]) {}
    fn write(&self, _: u64, data: &[u8]) -> Effect {
        match data {
            [1] => Effect::Reset,
            [2] => Effect::PowerOff,
            _ => Effect::None,
        }
    }
}

struct Rig {
    set: VcpuSet,
    events: Receiver<VcpuEvent>,
    board: Arc<Board>,
    host: FakeHypervisor,
    bus: Arc<Bus>,
    boots: Arc<AtomicU32>,
}

/// The boot state of a [`Rig`]: RIP 0x100000.
const ENTRY: u64 = 0x10_0000;

fn vcpus(host: &FakeHypervisor, n: u32, config: &VmConfig) -> Vec<Box<dyn Vcpu>> {
    let vm = host.create_vm(config).unwrap();
    (0..n).map(|id| vm.create_vcpu(id).unwrap()).collect()
}

impl Rig {
    /// `n` vCPUs without interrupt controllers that run `program`.
    fn new(n: u32, program: impl Fn(&mut GuestCpu) + Send + Sync + 'static) -> Self {
        Self::with(n, &VmConfig::bare(), program)
    }

    fn with(n: u32, config: &VmConfig, program: impl Fn(&mut GuestCpu) + Send + Sync + 'static) -> Self {
        let host = FakeHypervisor::new(program);
        let board = Arc::new(Board::default());
        let bus = Arc::new(Bus::default());
        bus.pio.insert(COUNT.into(), 1, Arc::new(Counter(board.clone()))).unwrap();
        bus.pio.insert(POWER.into(), 1, Arc::new(Power)).unwrap();
        let boots = Arc::new(AtomicU32::new(0));
        let (set, events) = set(vcpus(&host, n, config), bus.clone(), boots.clone());
        Self { set, events, board, host, bus, boots }
    }

    /// Waits until the guest has made `n` more counts. (A guest that never does makes the test hang, which the test
    /// runner shows; no time is asserted.)
    fn wait_counts(&self, n: u64) {
        let wanted = self.counts() + n;
        while self.counts() < wanted {
            thread::yield_now();
        }
    }

    fn counts(&self) -> u64 {
        self.board.counts.load(Ordering::SeqCst)
    }

    /// Pauses, and makes the devices notice a guest that runs on.
    fn pause(&self) {
        self.set.pause().unwrap();
        self.board.frozen.store(true, Ordering::SeqCst);
    }

    fn resume(&self) {
        self.board.frozen.store(false, Ordering::SeqCst);
        self.set.resume().unwrap();
    }

    fn event(&self) -> VcpuEvent {
        self.events.recv().unwrap()
    }

    fn no_event(&self) {
        assert!(self.events.try_recv().is_err(), "an event too many");
    }

    fn regs(&self, id: u32) -> Regs {
        self.set.with_vcpu(id, |v| v.regs().unwrap()).unwrap()
    }
}

fn set(vcpus: Vec<Box<dyn Vcpu>>, bus: Arc<Bus>, boots: Arc<AtomicU32>) -> (VcpuSet, Receiver<VcpuEvent>) {
    let (sender, events) = mpsc::channel();
    let sink: EventSink = Arc::new(move |event| sender.send(event).unwrap_or_default());
    let boot = move |vcpu: &mut dyn Vcpu| {
        boots.fetch_add(1, Ordering::SeqCst);
        vcpu.set_regs(&Regs { rip: ENTRY, ..vcpu.regs()? })
    };
    (VcpuSet::new(vcpus, bus, sink, Arc::new(boot)).unwrap(), events)
}

/// Counts for ever.
fn count_for_ever(cpu: &mut GuestCpu) {
    loop {
        cpu.out8(COUNT, 0);
    }
}

#[test]
fn a_set_needs_vcpus_of_different_numbers() {
    let host = FakeHypervisor::new(count_for_ever);
    let build =
        |vcpus| VcpuSet::new(vcpus, Arc::default(), Arc::new(|_| {}), Arc::new(|_: &mut dyn Vcpu| Ok(())));
    assert!(matches!(build(Vec::new()), Err(VcpuError::Empty)));
    let mut two = vcpus(&host, 2, &VmConfig::bare());
    two.extend(vcpus(&host, 1, &VmConfig::bare()));
    assert!(matches!(build(two), Err(VcpuError::Duplicate(0))));
}

#[test]
fn every_vcpu_has_a_thread_of_its_name() {
    struct Names(Mutex<Vec<String>>);
    impl BusDevice for Names {
        fn read(&self, _: u64, _: &mut [u8]) {}
        fn write(&self, _: u64, _: &[u8]) -> Effect {
            lock(&self.0).push(thread::current().name().unwrap().into());
            Effect::None
        }
    }
    let rig = Rig::new(3, |cpu| cpu.out8(0x30, 0));
    let names = Arc::new(Names(Mutex::default()));
    rig.bus.pio.insert(0x30, 1, names.clone()).unwrap();
    rig.resume();
    (0..3).for_each(|_| drop(rig.event()));
    let mut names = lock(&names.0).clone();
    names.sort();
    assert_eq!(names, ["vcpu0", "vcpu1", "vcpu2"]);
    assert_eq!(rig.set.ids().collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn exits_are_counted_while_the_guest_runs() {
    let rig = Rig::new(1, |cpu| {
        for _ in 0..5 {
            cpu.out8(COUNT, 0);
        }
        cpu.in8(COUNT);
        cpu.mmio_read(0x1000, &mut [0; 8]);
        cpu.mmio_write(0x1000, &[0; 4]);
        cpu.halt();
    });
    rig.resume();
    rig.event();
    let counts = rig.set.counts(0).unwrap();
    assert_eq!((counts.pio_writes, counts.pio_reads, counts.mmio_reads, counts.mmio_writes), (5, 1, 1, 1));
    assert_eq!((counts.halted, counts.shutdown, counts.faults), (1, 0, 0));
    // Each access was answered, and the guest went on.
    let latency = counts.latency;
    assert_eq!((latency.pio_writes.count(), latency.pio_reads.count()), (5, 1));
    assert_eq!(
        (latency.mmio_writes.count(), latency.mmio_reads.count(), latency.msr_reads.count()),
        (1, 1, 0)
    );
    assert_eq!(rig.set.counts(1), None);
}
