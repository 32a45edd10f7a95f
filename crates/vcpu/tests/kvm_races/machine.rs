use drystone_bus::{Bus, BusDevice, Effect};
use drystone_hypervisor::{Error, Kicker, Vcpu, VmConfig};
use drystone_testkit::guest::DATA;
use drystone_testkit::{Asm, Backend, Guest, TinyVm};
use drystone_vcpu::{VcpuError, VcpuEvent, VcpuSet};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Instant;

pub const VCPUS: usize = 2;
/// Guests write here, and nothing comes of it.
const WORK: u8 = 0x10;
/// A write here is an event.
const ASK: u8 = 0x18;

/// What a guest does for ever, beside counting in RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing, so that only a kick gets it out.
    Spins,
    /// I/O.
    Works,
    /// Once: then it halts in the hypervisor.
    Halts,
    /// Asks for something each time, and is parked until somebody has decided.
    Events,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Spins, Self::Works, Self::Halts, Self::Events];

    fn guest(self, id: u64) -> Guest {
        let code = Asm::new().mov_rdi(counter(id));
        let again = code.here();
        let code = code.inc_at_rdi();
        let code = match self {
            Self::Spins => code,
            Self::Works => code.out_imm(WORK, 0),
            Self::Halts => code.hlt(),
            Self::Events => code.out_imm(ASK, 1),
        };
        Guest::machine_code(code.jmp(again))
    }
}

fn counter(id: u64) -> u64 {
    DATA + id * 8
}

/// The device of all guests. Knows whether it is being called.
#[derive(Default)]
struct Board {
    inside: AtomicU64,
}

impl BusDevice for Board {
    fn read(&self, _: u64, _: &mut [u8]) {}
    fn write(&self, offset: u64, _: &[u8]) -> Effect {
        self.inside.fetch_add(1, SeqCst);
        thread::yield_now();
        self.inside.fetch_sub(1, SeqCst);
        if offset == 0 { Effect::None } else { Effect::Reset }
    }
}

pub struct Machine {
    pub set: VcpuSet,
    pub kickers: Vec<Arc<dyn Kicker>>,
    events: Mutex<mpsc::Receiver<VcpuEvent>>,
    board: Arc<Board>,
    /// Of the VM: dropped last.
    tiny: Mutex<TinyVm>,
}

impl Machine {
    pub fn new(backend: &Backend, kinds: [Kind; VCPUS]) -> Self {
        let guests: Vec<_> = (0..).zip(kinds).map(|(id, kind)| kind.guest(id)).collect();
        let mut tiny = TinyVm::with_guests(backend, VmConfig::default(), &guests);
        let vcpus = std::mem::take(&mut tiny.vcpus);
        let kickers = vcpus.iter().map(|v| v.kicker()).collect();
        let (bus, board) = (Arc::new(Bus::default()), Arc::new(Board::default()));
        bus.pio.insert(WORK.into(), u64::from(ASK - WORK) + 1, board.clone()).unwrap();
        let (sender, events) = mpsc::channel();
        let sink = Arc::new(move |event| sender.send(event).unwrap_or_default());
        let boot = |vcpu: &mut dyn Vcpu| -> Result<(), Error> { vcpu.start() };
        let set = VcpuSet::new(vcpus, bus, sink, Arc::new(boot)).unwrap();
        Self { set, kickers, events: Mutex::new(events), board, tiny: Mutex::new(tiny) }
    }

    /// Lets those go on that have asked for something.
    pub fn release_events(&self) {
        for event in self.events.lock().unwrap().try_iter() {
            self.set.release(&event).unwrap();
        }
    }

    /// Waits for what comes by itself; events are decided about meanwhile.
    pub fn wait(&self, what: &str, there: impl Fn() -> bool) {
        let begun = Instant::now();
        while !there() {
            self.release_events();
            thread::sleep(super::GLANCE);
            assert!(begun.elapsed() < super::HANG, "lost: {what}");
        }
    }

    /// Makes sure that nobody is in a guest or a device, if nobody may be. Answers whether that was so.
    pub fn look(&self) -> bool {
        let ram = || self.tiny.lock().unwrap().read(DATA, VCPUS * 8);
        let looked = self.set.with_vcpu(0, |vcpu| {
            let before = (vcpu.regs().unwrap(), ram());
            for _ in 0..4 {
                thread::yield_now();
                assert_eq!(self.board.inside.load(SeqCst), 0, "a device is being called");
            }
            assert_eq!((vcpu.regs().unwrap(), ram()), before, "a guest runs while it is paused");
        });
        match looked {
            Ok(()) => true,
            Err(VcpuError::NotPaused(_)) => false,
            Err(e) => panic!("{e}"),
        }
    }
}

/// A thread that was joined may be listed a moment longer: the kernel wakes who waits before it forgets the thread.
pub fn no_vcpu_thread_is_left() {
    let vcpus = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
        names.filter(|name| name.starts_with("vcpu")).count()
    };
    let begun = Instant::now();
    while vcpus() > 0 {
        assert!(begun.elapsed() < super::HANG, "{} vCPU threads are left", vcpus());
        thread::yield_now();
    }
}
