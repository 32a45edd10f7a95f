//! Several vCPUs that do I/O while they are paused, resumed, reset, looked at, kicked by strangers and stopped, in
//! random order. Every call must complete, and no guest may run while it is paused.
#![allow(missing_docs, clippy::unwrap_used)]

use drystone_bus::{Bus, BusDevice, Effect};
use drystone_hypervisor::fake::{FakeHypervisor, GuestCpu};
use drystone_hypervisor::{Hypervisor, Kicker, Regs, Vcpu, VmConfig};
use drystone_state::Component;
use drystone_vcpu::{VcpuEvent, VcpuSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;

const VCPUS: u32 = 4;
/// Every guest's first access.
const HELLO: u16 = 0x10;
const WORK: u16 = 0x20;
const RESET: u16 = 0x30;

/// xorshift64*: the order is random, and the same in every run with the same seed.
struct Random(u64);
impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    }
}

#[derive(Default)]
struct Board {
    paused: AtomicBool,
    ran_while_paused: AtomicU64,
    hellos: AtomicU64,
}

impl BusDevice for Board {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
        self.notice();
    }
    fn write(&self, offset: u64, _: &[u8]) -> Effect {
        self.notice();
        match u16::try_from(offset).unwrap() + HELLO {
            HELLO => drop(self.hellos.fetch_add(1, SeqCst)),
            RESET => return Effect::Reset,
            _ => {}
        }
        Effect::None
    }
}

impl Board {
    fn notice(&self) {
        if self.paused.load(SeqCst) {
            self.ran_while_paused.fetch_add(1, SeqCst);
        }
    }
}

fn guest(cpu: &mut GuestCpu) {
    let mut random = Random(u64::from(cpu.id()) + 77);
    cpu.out8(HELLO, 0);
    loop {
        match random.below(400) {
            0 => cpu.out8(RESET, 0),
            1 => cpu.shutdown(),
            2 => cpu.halt(), // in the hypervisor, for ever
            3..100 => drop(cpu.in32(WORK)),
            100..200 => cpu.mmio_write(0xd000_0000, &[1, 2, 3, 4]),
            200..300 => cpu.step(),
            _ => cpu.out16(WORK, 1),
        }
    }
}

struct Machine {
    set: VcpuSet,
    board: Arc<Board>,
    kickers: Vec<Arc<dyn Kicker>>,
    events: mpsc::Receiver<VcpuEvent>,
}

fn machine() -> Machine {
    let host = FakeHypervisor::new(guest);
    let vm = host.create_vm(&VmConfig::default()).unwrap();
    let vcpus: Vec<Box<dyn Vcpu>> = (0..VCPUS).map(|id| vm.create_vcpu(id).unwrap()).collect();
    let kickers = vcpus.iter().map(|v| v.kicker()).collect();
    let bus = Arc::new(Bus::default());
    let board = Arc::new(Board::default());
    bus.pio.insert(HELLO.into(), 0x40, board.clone()).unwrap();
    let (sender, events) = mpsc::channel();
    let sink = Arc::new(move |event| drop(sender.send(event)));
    let boot = |vcpu: &mut dyn Vcpu| vcpu.set_regs(&Regs { rip: 0x10_0000, ..vcpu.regs()? });
    let set = VcpuSet::new(vcpus, bus, sink, Arc::new(boot)).unwrap();
    Machine { set, board, kickers, events }
}

/// One machine's life of `steps` random calls.
fn live(seed: u64, steps: u32) {
    let mut random = Random(seed);
    let Machine { set, board, kickers, events } = machine();
    let end = Arc::new(AtomicBool::new(false));
    let stranger = {
        let end = end.clone();
        thread::spawn(move || {
            while !end.load(SeqCst) {
                kickers.iter().for_each(|k| k.kick());
                thread::yield_now();
            }
        })
    };
    // The first start, so that a reset boots again.
    set.resume().unwrap();
    let mut paused = false;
    let mut resets = 0;
    let mut held = 0;
    for _ in 0..steps {
        match random.below(8) {
            0..3 => {
                board.paused.store(false, SeqCst);
                set.resume().unwrap();
                paused = false;
            }
            3..6 => {
                set.pause().unwrap();
                board.paused.store(true, SeqCst);
                paused = true;
            }
            6 if paused => {
                set.reset().unwrap();
                (resets, held) = (resets + 1, 0);
                events.try_iter().for_each(|e| assert!(!set.is_current(&e)));
                let rip = set.with_vcpu(VCPUS - 1, |v| v.regs().unwrap().rip).unwrap();
                assert_eq!(rip, 0x10_0000);
            }
            _ => (0..random.below(50)).for_each(|_| thread::yield_now()),
        }
        held += events.try_iter().filter(|e| set.is_current(e)).count();
        assert!(held <= VCPUS as usize, "one event for each vCPU and reset");
    }
    if random.below(2) == 0 {
        set.stop();
        board.paused.store(true, SeqCst);
    }
    drop(set);
    board.paused.store(true, SeqCst);
    end.store(true, SeqCst);
    stranger.join().unwrap();
    assert_eq!(board.ran_while_paused.load(SeqCst), 0);
    assert!(board.hellos.load(SeqCst) <= (resets + 1) * u64::from(VCPUS), "a guest began twice");
}

#[test]
fn every_call_completes_in_any_order() {
    for seed in 1..=12 {
        live(seed * 0x9e37_79b9, 300);
    }
}

#[test]
fn thousands_of_pauses_race_with_kicks_and_exits() {
    let Machine { set, board, kickers, .. } = machine();
    let start = Barrier::new(2);
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            start.wait();
            while !end.load(SeqCst) {
                kickers.iter().for_each(|k| k.kick());
                thread::yield_now();
            }
        });
        start.wait();
        for n in 0..3000 {
            board.paused.store(false, SeqCst);
            set.resume().unwrap();
            if n % 7 == 0 {
                thread::yield_now();
            }
            set.pause().unwrap();
            board.paused.store(true, SeqCst);
            if n % 50 == 0 {
                set.reset().unwrap();
            }
        }
        end.store(true, SeqCst);
    });
    assert_eq!(board.ran_while_paused.load(SeqCst), 0);
}
