//! What virtio-mmio and virtio-pci cost the guest and the host for each notification, on this host's KVM: a kick, by how the
//! hypervisor recognises it; an interrupt, by what carries it; an access to configuration space, by how it is reached.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used)]

use drystone_hypervisor::{Datamatch, Exit, Guard, IoAddress, IoHandler, Msi, VmConfig};
use drystone_kvm::Kvm;
use drystone_testkit::guest::{self, FIRST_VECTOR};
use drystone_testkit::{Asm, Backend, Guest, IoLog, TinyVm};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const TURNS: usize = 15;
const KICKS: u32 = 20_000;
const INTERRUPTS: u32 = 5_000;
const CONFIG_READS: u32 = 5_000;
/// Where doorbells are; nothing else is.
const DOORBELL: u64 = 0xd000_0000;
const QUEUES: u64 = 16;
const DONE: u8 = 0x99;

fn event() -> EventFd {
    EventFd::new(EFD_NONBLOCK).unwrap()
}

fn run_to_io(tiny: &mut TinyVm) {
    let mut io = IoLog::new();
    assert_eq!(tiny.vcpus[0].run(&mut io).unwrap(), Exit::Io);
}

/// Writes `value` of `width` bytes to `at`, over and over; says when it has done so KICKS times.
fn kicks(at: u64, value: u64, width: usize) -> Guest {
    let code = Asm::new();
    let begin = code.here();
    let code = code.mov_rdi(at).mov_rax(value).mov_ecx(KICKS);
    let again = code.here();
    // DEC ECX
    let code = code.store(width).raw(&[0xff, 0xc9]).jnz(again);
    Guest::machine_code(code.out_imm(DONE, 0).jmp(begin))
}

/// One way of kicking: what it is called, how the doorbells are registered, and what the guest writes.
struct Kick {
    name: &'static str,
    doorbells: Vec<(u64, Option<Datamatch>)>,
    write: (u64, u64, usize),
}

fn kick_ways() -> Vec<Kick> {
    let queue = |value| Some(Datamatch { value, len: 4 });
    let apart = |queue: u64| DOORBELL + 4 * queue;
    vec![
        Kick {
            name: "mmio, 1 queue (one address, value compared)",
            doorbells: vec![(DOORBELL, queue(0))],
            write: (DOORBELL, 0, 4),
        },
        Kick {
            name: "mmio, 16 queues, the last",
            doorbells: (0..QUEUES).map(|q| (DOORBELL, queue(q))).collect(),
            write: (DOORBELL, QUEUES - 1, 4),
        },
        Kick {
            name: "pci, 1 queue (an address of its own)",
            doorbells: vec![(DOORBELL, None)],
            write: (DOORBELL, 0, 2),
        },
        Kick {
            name: "pci, 16 queues, the last",
            doorbells: (0..QUEUES).map(|q| (apart(q), None)).collect(),
            write: (apart(QUEUES - 1), QUEUES - 1, 2),
        },
    ]
}

/// The median over the turns; the ways take turns, so that a busy moment meets all of them.
fn medians(names: &[&str], mut turn: impl FnMut(usize) -> Duration) -> Vec<Duration> {
    let mut times = vec![Vec::new(); names.len()];
    for _ in 0..TURNS {
        for (way, times) in times.iter_mut().enumerate() {
            times.push(turn(way));
        }
    }
    times.iter_mut().for_each(|times| times.sort());
    times.iter().map(|times| times[TURNS / 2]).collect()
}

fn show(what: &str, names: &[&str], times: &[Duration], each: u32) {
    println!("{what}, us each, median of {TURNS} turns");
    for (name, time) in names.iter().zip(times) {
        let ratio = time.as_secs_f64() / times[0].as_secs_f64();
        println!("  {name:<48} {:>8.3}   ratio {ratio:.2}", time.as_secs_f64() * 1e6 / f64::from(each));
    }
}

fn kick_bench(backend: &Backend) {
    let ways = kick_ways();
    let mut machines: Vec<(TinyVm, Vec<(EventFd, Guard)>)> = Vec::new();
    for Kick { doorbells, write: (at, value, width), .. } in &ways {
        let tiny = TinyVm::new(backend, VmConfig::default(), kicks(*at, *value, *width));
        let register = |(at, datamatch): &(u64, Option<Datamatch>)| {
            let event = event();
            let guard = tiny.vm.register_ioeventfd(&event, IoAddress::Mmio(*at), *datamatch).unwrap();
            (event, guard)
        };
        let wires = doorbells.iter().map(register).collect();
        machines.push((tiny, wires));
    }
    let names: Vec<_> = ways.iter().map(|way| way.name).collect();
    let times = medians(&names, |way| {
        let (tiny, wires) = &mut machines[way];
        let begin = Instant::now();
        run_to_io(tiny);
        let time = begin.elapsed();
        let rung: u64 = wires.iter().filter_map(|(event, _)| event.read().ok()).sum();
        assert_eq!(rung, u64::from(KICKS), "a kick was lost");
        time
    });
    show("A kick, guest to event", &names, &times, KICKS);
}

fn interrupt_bench(backend: &Backend) {
    let names = ["line (irqfd on an interrupt controller's input)", "message (irqfd with an MSI route)"];
    let mut line = TinyVm::new(backend, VmConfig::default(), guest::interrupts());
    let mut message = TinyVm::new(backend, VmConfig::default(), guest::messages());
    run_to_io(&mut line);
    run_to_io(&mut message);
    let (by_line, by_message) = (event(), event());
    let _wire = line.vm.register_irqfd(&by_line, 5).unwrap();
    let route = message.vm.create_msi_route(&by_message).unwrap();
    route.set(Some(Msi::fixed(0, FIRST_VECTOR))).unwrap();
    let times = medians(&names, |way| {
        let (tiny, event) = if way == 0 { (&mut line, &by_line) } else { (&mut message, &by_message) };
        let begin = Instant::now();
        for _ in 0..INTERRUPTS {
            event.write(1).unwrap();
            run_to_io(tiny);
        }
        begin.elapsed()
    });
    show("An interrupt, event to the guest's handler and one exit back", &names, &times, INTERRUPTS);
}

/// Reads a register of configuration space CONFIG_READS times, and halts: through the ports, or through ECAM.
fn config_reads(ports: bool) -> Guest {
    let code = Asm::new().mov_ecx(CONFIG_READS).mov_rdi(0xe000_8000);
    let again = code.here();
    let code = if ports {
        let select = code.mov_rax(0x8000_0800).mov_edx(0xcf8).output(4);
        select.mov_edx(0xcfc).input(4)
    } else {
        code.load(4)
    };
    Guest::machine_code(code.dec_ecx().jnz(again).hlt())
}

/// Has nothing anywhere, and counts how often it was asked.
struct Nothing(u32);

impl IoHandler for Nothing {
    fn pio_read(&mut self, _: u16, data: &mut [u8]) {
        self.0 += 1;
        data.fill(0xff);
    }
    fn pio_write(&mut self, _: u16, _: &[u8]) {}
    fn mmio_read(&mut self, _: u64, data: &mut [u8]) {
        self.0 += 1;
        data.fill(0xff);
    }
    fn mmio_write(&mut self, _: u64, _: &[u8]) {}
}

fn config_bench(backend: &Backend) {
    let names = ["ports 0xcf8 and 0xcfc", "the same, the address deferred", "ECAM"];
    let times = medians(&names, |way| {
        let mut tiny = TinyVm::new(backend, VmConfig::bare(), config_reads(way < 2));
        let _deferred = (way == 1).then(|| tiny.vm.defer_writes(0xcf8, 4).unwrap());
        let mut io = Nothing(0);
        let begin = Instant::now();
        while tiny.vcpus[0].run(&mut io).unwrap() == Exit::Io {}
        let time = begin.elapsed();
        assert_eq!(io.0, CONFIG_READS);
        time
    });
    show("A read of configuration space, without what answers it", &names, &times, CONFIG_READS);
}

fn main() {
    match Kvm::open() {
        Ok(kvm) => {
            let backend = Backend::Real(Arc::new(kvm));
            kick_bench(&backend);
            interrupt_bench(&backend);
            config_bench(&backend);
        }
        Err(e) => eprintln!("NOT RUN: {e}"),
    }
}
