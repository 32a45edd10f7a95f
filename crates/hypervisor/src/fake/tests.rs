use super::*;
use crate::{
    Clocks, Datamatch, DescriptorTable, Exit, IoAddress, IoHandler, MapOptions, Msr, Regs, RunError, Segment,
    Sregs, Vcpu,
};
use drystone_memory::{GuestRam, Layout, RamConfig};
use std::sync::atomic::{AtomicUsize, Ordering};
use vmm_sys_util::eventfd::EventFd;

/// Answers reads with the low byte of the address, counted up, and keeps writes.
#[derive(Default)]
struct Io(Vec<(u64, Vec<u8>)>);

impl IoHandler for Io {
    fn pio_read(&mut self, port: u16, data: &mut [u8]) {
        self.mmio_read(port.into(), data);
    }
    fn pio_write(&mut self, port: u16, data: &[u8]) {
        self.mmio_write(port.into(), data);
    }
    fn mmio_read(&mut self, addr: u64, data: &mut [u8]) {
        (addr as u8..).zip(data).for_each(|(n, byte)| *byte = n);
    }
    fn mmio_write(&mut self, addr: u64, data: &[u8]) {
        self.0.push((addr, data.to_vec()));
    }
}

fn vcpu(host: &FakeHypervisor, config: VmConfig) -> (Arc<dyn Vm>, Box<dyn Vcpu>) {
    let vm = host.create_vm(&config).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    (vm, vcpu)
}

fn ram(size: u64) -> Arc<dyn drystone_memory::Backed> {
    let layout = Layout::new(size, 46).unwrap();
    GuestRam::new(&layout, &RamConfig::default()).unwrap().regions().remove(0)
}

#[test]
fn every_access_is_one_exit_and_is_recorded() {
    let host = FakeHypervisor::new(|cpu| {
        cpu.out16(0x80, 0x1234);
        let read = cpu.in32(0x10);
        let mut data = [0; 3];
        cpu.mmio_read(0xd000_0040, &mut data);
        cpu.mmio_write(0xd000_0000, &data);
        cpu.out32(0x81, read);
    });
    let (_vm, mut vcpu) = vcpu(&host, VmConfig::bare());
    let mut io = Io::default();
    let exits: Vec<_> = (0..7).map(|_| vcpu.run(&mut io).unwrap()).collect();
    assert_eq!(exits, [Exit::Io, Exit::Io, Exit::Io, Exit::Io, Exit::Io, Exit::Halted, Exit::Halted]);
    let (word, mmio, read) = (vec![0x34, 0x12], vec![0x40, 0x41, 0x42], vec![0x10, 0x11, 0x12, 0x13]);
    assert_eq!(io.0, [(0x80, word.clone()), (0xd000_0000, mmio.clone()), (0x81, read.clone())]);
    assert_eq!(
        host.recorder().events(0),
        [
            Op::PioWrite { port: 0x80, data: word },
            Op::PioRead { port: 0x10, data: read.clone() },
            Op::MmioRead { addr: 0xd000_0040, data: mmio.clone() },
            Op::MmioWrite { addr: 0xd000_0000, data: mmio },
            Op::PioWrite { port: 0x81, data: read },
        ]
    );
}

#[test]
fn the_program_stands_still_outside_run() {
    let count = Arc::new(AtomicUsize::new(0));
    let inside = count.clone();
    let host = FakeHypervisor::new(move |cpu| {
        loop {
            cpu.out8(0, 0);
            inside.fetch_add(1, Ordering::SeqCst);
        }
    });
    let (_vm, mut vcpu) = vcpu(&host, VmConfig::bare());
    for n in 0..100 {
        assert_eq!(count.load(Ordering::SeqCst), usize::max(n, 1) - 1);
        vcpu.run(&mut Io::default()).unwrap();
    }
}

#[test]
fn a_kick_completes_the_input_and_moves_nothing_else() {
    let host = FakeHypervisor::new(|cpu| {
        cpu.set_regs(|r| r.rax = 0xaabb_ccdd_1111_2222);
        let byte = cpu.in8(0x77);
        cpu.out8(1, byte);
    });
    let (_vm, mut vcpu) = vcpu(&host, VmConfig::bare());
    let mut io = Io::default();
    assert_eq!(vcpu.run(&mut io).unwrap(), Exit::Io);
    assert_eq!(vcpu.regs().unwrap().rax, 0xaabb_ccdd_1111_2222);
    vcpu.kicker().kick();
    vcpu.kicker().kick();
    assert_eq!(vcpu.run(&mut io).unwrap(), Exit::Interrupted);
    assert_eq!(vcpu.regs().unwrap().rax, 0xaabb_ccdd_1111_2277);
    assert_eq!(vcpu.run(&mut io).unwrap(), Exit::Io);
    assert_eq!(io.0, [(1, vec![0x77])]);
}

#[test]
fn a_kick_stops_a_loop_and_a_halt() {
    for config in [VmConfig::bare(), VmConfig::default()] {
        let halts = config.has_interrupts();
        let host = FakeHypervisor::new(move |cpu| {
            if halts {
                cpu.halt();
            }
            loop {
                cpu.step();
            }
        });
        let (_vm, mut vcpu) = vcpu(&host, config);
        for _ in 0..20 {
            let kicker = vcpu.kicker();
            let thread = std::thread::spawn(move || kicker.kick());
            assert_eq!(vcpu.run(&mut Io::default()).unwrap(), Exit::Interrupted);
            thread.join().unwrap();
        }
    }
}

#[test]
fn dropping_a_vcpu_unwinds_its_program_and_leaves_its_kicker_harmless() {
    struct Flag(Arc<AtomicUsize>);
    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let flag = dropped.clone();
    let host = FakeHypervisor::new(move |cpu| {
        let _flag = Flag(flag.clone());
        cpu.out8(0, 0);
        cpu.shutdown();
    });
    let (vm, mut vcpu) = vcpu(&host, VmConfig::default());
    vcpu.run(&mut Io::default()).unwrap();
    let kicker = vcpu.kicker();
    drop(vcpu);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    kicker.kick();
    assert!(matches!(vm.create_vcpu(0), Err(Error::Invalid { .. })), "a number is used once");
    drop(vm.create_vcpu(1).unwrap()); // never ran
}

#[test]
fn programs_that_shut_down_fail_panic_or_never_end_say_so_for_ever() {
    let outcome = |program: fn(&mut GuestCpu), steps| {
        let host = FakeHypervisor::new(program).with_step_budget(steps);
        let (_vm, mut vcpu) = vcpu(&host, VmConfig::bare());
        let once = vcpu.run(&mut Io::default());
        let again = vcpu.run(&mut Io::default());
        assert_eq!(format!("{once:?}"), format!("{again:?}"));
        vcpu.kicker().kick();
        assert_eq!(vcpu.run(&mut Io::default()).unwrap(), Exit::Interrupted);
        once.map_err(|e| e.to_string())
    };
    assert_eq!(outcome(|cpu| cpu.shutdown(), 9), Ok(Exit::Shutdown));
    assert_eq!(outcome(|cpu| cpu.fail("no disk"), 9), Err("vCPU 0: unexpected exit: no disk".into()));
    let panicked = outcome(|_| panic!("guest says {}", 7), 9).unwrap_err();
    assert!(panicked.contains("guest says 7"), "{panicked}");
    let endless = |cpu: &mut GuestCpu| {
        loop {
            cpu.step();
        }
    };
    let exhausted = outcome(endless, 1000).unwrap_err();
    assert!(exhausted.contains("budget"), "{exhausted}");
    assert_eq!(outcome(|cpu| (0..9).for_each(|_| cpu.step()), 9), Ok(Exit::Halted), "the budget is exact");
}

#[test]
fn interrupts_reach_a_halted_guest_from_lines_and_eventfds() {
    let host = FakeHypervisor::new(|cpu| {
        loop {
            let gsi = cpu.wait_interrupt();
            cpu.out32(0, gsi);
        }
    });
    let (vm, mut vcpu) = vcpu(&host, VmConfig::default());
    let (a, b) = (EventFd::new(0).unwrap(), EventFd::new(0).unwrap());
    let _a = vm.register_irqfd(&a, 5).unwrap();
    let guard = vm.register_irqfd(&b, 6).unwrap();
    let mut io = Io::default();
    for (gsi, raise) in [(5, &a), (6, &b), (5, &a)] {
        let raise = raise.try_clone().unwrap();
        let thread = std::thread::spawn(move || raise.write(3).unwrap());
        assert_eq!(vcpu.run(&mut io).unwrap(), Exit::Io);
        assert_eq!(io.0.pop(), Some((0, vec![gsi, 0, 0, 0])));
        thread.join().unwrap();
    }
    drop(guard);
    b.write(1).unwrap();
    for high in [true, true, false, true] {
        vm.set_irq_line(4, high).unwrap();
    }
    assert_eq!(vcpu.run(&mut io).unwrap(), Exit::Io);
    assert_eq!(io.0.pop(), Some((0, vec![4, 0, 0, 0])), "edges merge, and a dropped guard wires nothing");
    vcpu.kicker().kick();
    assert_eq!(vcpu.run(&mut io).unwrap(), Exit::Interrupted);
    assert!(vm.set_irq_line(24, true).is_err());
    assert!(host.create_vm(&VmConfig::bare()).unwrap().set_irq_line(4, true).is_err());
    for config in [VmConfig::bare(), VmConfig::split()] {
        let timer_alone = VmConfig { pit: true, ..config };
        assert!(matches!(host.create_vm(&timer_alone), Err(Error::Invalid { .. })));
    }
}

#[test]
fn doorbells_ring_without_an_exit_only_for_what_they_match() {
    let host = FakeHypervisor::new(|cpu| {
        cpu.out8(0x70, 1);
        cpu.out16(0x70, 1);
        cpu.out16(0x70, 2);
        cpu.mmio_write(0xd000_0050, &[9; 4]);
        cpu.mmio_write(0xd000_0054, &[9; 4]);
    });
    let (vm, mut vcpu) = vcpu(&host, VmConfig::bare());
    let new = || EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).unwrap();
    let (word, any) = (new(), new());
    let one = Datamatch { value: 1, len: 2 };
    let _word = vm.register_ioeventfd(&word, IoAddress::Pio(0x70), Some(one)).unwrap();
    let guard = vm.register_ioeventfd(&any, IoAddress::Mmio(0xd000_0050), None).unwrap();
    assert!(vm.register_ioeventfd(&any, IoAddress::Pio(0x70), None).is_err());
    assert!(vm.register_ioeventfd(&any, IoAddress::Pio(0x70), Some(one)).is_err());
    assert!(vm.register_ioeventfd(&any, IoAddress::Pio(1), Some(Datamatch { value: 1, len: 3 })).is_err());
    let mut io = Io::default();
    while vcpu.run(&mut io).unwrap() != Exit::Halted {}
    assert_eq!(io.0, [(0x70, vec![1]), (0x70, vec![2, 0]), (0xd000_0054, vec![9; 4])]);
    assert_eq!((word.read().unwrap(), any.read().unwrap()), (1, 1));
    drop(guard);
    drop(vm.register_ioeventfd(&any, IoAddress::Mmio(0xd000_0050), None).unwrap());
}

#[test]
fn ram_is_read_written_logged_and_protected() {
    let host = FakeHypervisor::new(|cpu| {
        cpu.mmio_write(0x1ffe, &[1, 2, 3, 4]);
        let mut back = [0; 4];
        cpu.mmio_read(0x1ffe, &mut back);
        assert_eq!(back, [1, 2, 3, 4]);
        assert_eq!(cpu.ram_read(0xfffe, &mut back), Err(Unmapped { addr: 0xfffe, len: 4 }));
        cpu.mmio_write(0x10_0000, &[5]);
    });
    let (vm, mut vcpu) = vcpu(&host, VmConfig::bare());
    let region = ram(0x10000);
    let mapped = vm.map_memory(region.clone(), MapOptions::log_dirty()).unwrap();
    assert!(matches!(vm.map_memory(ram(0x1000), MapOptions::default()), Err(Error::Invalid { .. })));
    let mut io = Io::default();
    assert_eq!(vcpu.run(&mut io).unwrap(), Exit::Io);
    assert_eq!(vm.dirty_log(0).unwrap(), [0b110]);
    assert_eq!(vm.dirty_log(0).unwrap(), [0]);
    drop(mapped);
    assert!(vm.dirty_log(0).is_err());

    let _ro = vm.map_memory(region, MapOptions::read_only()).unwrap();
    let state = vcpu.save().unwrap();
    vcpu.restore(&state).unwrap();
    io.0.clear();
    assert_eq!(vcpu.run(&mut io).unwrap(), Exit::Io);
    assert_eq!(io.0, [(0x1ffe, vec![1, 2, 3, 4])], "the program began anew, and its store came out");
}

#[test]
fn what_a_host_cannot_save_is_named_where_it_is_restored() {
    let program = |cpu: &mut GuestCpu| cpu.halt();
    let (_vm, a) = vcpu(&FakeHypervisor::new(program).with_unsaved(["a bit"]), VmConfig::bare());
    assert!(a.unsaved().is_empty(), "nothing was saved yet");
    let saved = a.save().unwrap();
    let (_vm, mut b) = vcpu(&FakeHypervisor::new(program), VmConfig::bare());
    b.restore(&saved).unwrap();
    assert_eq!((a.unsaved(), b.unsaved()), (vec!["a bit".to_owned()], vec!["a bit".to_owned()]));
    b.save().unwrap();
    assert!(b.unsaved().is_empty(), "this host can");
}

#[test]
fn registers_are_stored_saved_and_restored() {
    let host = FakeHypervisor::new(|cpu| {
        loop {
            let n = cpu.regs().rbx as u8;
            cpu.set_regs(|r| r.rbx += 1);
            cpu.out8(0, n);
        }
    });
    let (vm, mut a) = vcpu(&host, VmConfig::default());
    let reset = a.save().unwrap();
    a.set_msrs(&[Msr { index: 0xc000_0080, value: 0x500 }]).unwrap();
    let mut io = Io::default();
    (0..3).for_each(|_| assert_eq!(a.run(&mut io).unwrap(), Exit::Io));
    assert!(a.set_cpuid(&host.supported_cpuid().unwrap()).is_err(), "too late");
    let saved = a.save().unwrap();
    vm.set_irq_line(3, true).unwrap();
    let saved_vm = vm.save().unwrap();

    let (vm2, mut b) = vcpu(&host, VmConfig::default());
    b.set_cpuid(&host.supported_cpuid().unwrap()).unwrap();
    vm2.restore(&saved_vm, Clocks::GoOn).unwrap();
    b.restore(&saved).unwrap();
    assert_eq!(b.msrs(&[0xc000_0080]).unwrap(), [Msr { index: 0xc000_0080, value: 0x500 }]);
    assert!(
        matches!(b.msrs(&[0xc000_0080, 0x1234]), Err(Error::Invalid { attempt, .. }) if attempt.contains("0x1234"))
    );
    assert_eq!(b.run(&mut io).unwrap(), Exit::Io);
    b.restore(&reset).unwrap();
    assert_eq!(b.run(&mut io).unwrap(), Exit::Io);
    assert_eq!(io.0.iter().map(|w| w.1[0]).collect::<Vec<_>>(), [0, 1, 2, 3, 0]);

    assert!(matches!(b.restore(&saved_vm), Err(Error::Invalid { .. })), "a foreign state");
    assert!(host.create_vm(&VmConfig::bare()).unwrap().restore(&saved_vm, Clocks::GoOn).is_err());
}

/// Each has a value of its own, and none the one that it has in a new vCPU.
#[test]
fn no_register_is_lost_over_a_save() {
    let segment = |n: u64| Segment {
        base: n << 16,
        limit: n as u32,
        selector: n as u16,
        kind: n as u8,
        present: true,
        dpl: 3,
        db: true,
        s: true,
        l: true,
        g: true,
        avl: true,
        unusable: true,
    };
    let regs = Regs {
        rax: 1,
        rbx: 2,
        rcx: 3,
        rdx: 4,
        rsi: 5,
        rdi: 6,
        rsp: 7,
        rbp: 8,
        r8: 9,
        r9: 10,
        r10: 11,
        r11: 12,
        r12: 13,
        r13: 14,
        r14: 15,
        r15: 16,
        rip: 17,
        rflags: 18,
    };
    let sregs = Sregs {
        cs: segment(30),
        ds: segment(31),
        es: segment(32),
        fs: segment(33),
        gs: segment(34),
        ss: segment(35),
        tr: segment(36),
        ldt: segment(37),
        gdt: DescriptorTable { base: 40, limit: 41 },
        idt: DescriptorTable { base: 42, limit: 43 },
        cr0: 50,
        cr2: 51,
        cr3: 52,
        cr4: 53,
        cr8: 54,
        efer: 55,
        apic_base: 56,
    };
    let host = FakeHypervisor::new(|cpu| cpu.halt());
    let ((_old, mut a), (_new, mut b)) = (vcpu(&host, VmConfig::default()), vcpu(&host, VmConfig::default()));
    a.set_regs(&regs).unwrap();
    a.set_sregs(&sregs).unwrap();
    b.restore(&a.save().unwrap()).unwrap();
    assert_eq!((b.regs().unwrap(), b.sregs().unwrap()), (regs, sregs));
}

#[test]
fn scripts_expect_what_they_say() {
    let good = Script::new()
        .pio_in(0x20, &[0x20, 0x21])
        .pio_out(1, &[7])
        .write(0xd000_0000, &[1; 8])
        .read(0xd000_0000, &[0, 1])
        .halt()
        .shutdown();
    let bad = Script::new().pio_in(0x20, &[0]);
    let planned = Script::new().error("planned");
    let host = FakeHypervisor::scripted([good, bad, planned]);
    let vm = host.create_vm(&VmConfig::bare()).unwrap();
    let mut io = Io::default();
    let mut first = vm.create_vcpu(0).unwrap();
    let exits: Vec<_> = (0..6).map(|_| first.run(&mut io).unwrap()).collect();
    assert_eq!(exits, [Exit::Io, Exit::Io, Exit::Io, Exit::Io, Exit::Halted, Exit::Shutdown]);
    let mut second = vm.create_vcpu(1).unwrap();
    assert_eq!(second.run(&mut io).unwrap(), Exit::Io);
    let why = second.run(&mut io).unwrap_err().to_string();
    assert!(why.contains("step 0: expected [00], read [20]"), "{why}");
    let error = vm.create_vcpu(2).unwrap().run(&mut io).unwrap_err();
    assert!(matches!(error, RunError::Unexpected { id: 2, what } if what == "planned"));
    assert_eq!(vm.create_vcpu(3).unwrap().run(&mut io).unwrap(), Exit::Halted, "no script");
}

#[test]
fn string_input_and_output_are_many_accesses_of_one_exit() {
    let host = FakeHypervisor::new(|cpu| {
        let mut data = [0; 6];
        cpu.rep_in(0x30, 2, &mut data);
        cpu.rep_out(0x31, 1, &data);
    });
    let (_vm, mut vcpu) = vcpu(&host, VmConfig::bare());
    let mut io = Io::default();
    let exits: Vec<_> = (0..3).map(|_| vcpu.run(&mut io).unwrap()).collect();
    assert_eq!(exits, [Exit::Io, Exit::Io, Exit::Halted]);
    let bytes: Vec<u8> = io.0.iter().flat_map(|w| w.1.clone()).collect();
    assert_eq!((io.0.len(), bytes), (6, vec![0x30, 0x31, 0x30, 0x31, 0x30, 0x31]));
}

#[test]
fn the_recorder_is_bounded() {
    let recorder = Recorder::default();
    (0..20_000).for_each(|_| recorder.push(0, Op::Halt));
    assert_eq!(recorder.all().len() as u64 + recorder.forgotten(), 20_000);
    assert!(recorder.forgotten() > 0);
}
