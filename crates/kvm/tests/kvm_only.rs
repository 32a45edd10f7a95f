//! What only a CPU can do: errors that name the guest's instruction, state beyond registers, starting secondary CPUs.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use common::kvm;
use drystone_hypervisor::{Clocks, DirtyTracking, Error, Exit, Msr, RunError, Segment, Vcpu, VmConfig};
use drystone_kvm::Kvm;
use drystone_memory::{GuestRam, Layout, RamConfig};
use drystone_testkit::guest::{self, DATA, INTERRUPT_PORT, READY_PORT};
use drystone_testkit::{Access, Asm, Backend, Guest, IoLog, TinyVm, run_through_io};
use std::path::Path;
use std::sync::Arc;

/// Instructions that KVM must emulate when it is software, by encoding and by name as far as it is checked.
const HARD: [(&[u8], &str); 4] = [
    (&[0xf3, 0x0f, 0xb8, 0xc3], "popcnt eax,ebx"),
    (&[0xf2, 0x0f, 0x38, 0xf1, 0xc3], "crc32 eax,ebx"),
    (&[0xf0, 0x48, 0x0f, 0xc7, 0x0f], "lock cmpxchg16b [rdi]"),
    (&[0x66, 0x0f, 0x58, 0xc1], "addpd xmm0,xmm1"),
];

fn after(instruction: &[u8]) -> Guest {
    // One instruction before, so that RIP is not simply the start, and code behind, which KVM fetches ahead.
    Guest::machine_code(Asm::new().mov_rdi(DATA).raw(instruction).out_imm(0x10, 1).hlt())
}

#[test]
fn an_instruction_that_cannot_be_emulated_is_named() {
    let Some(backend) = kvm() else { return };
    for (bytes, name) in HARD {
        let mut tiny = TinyVm::new(&backend, VmConfig::bare(), after(bytes));
        let start = tiny.vcpu().regs().unwrap().rip;
        let mut io = IoLog::new();
        match tiny.vcpu().run(&mut io) {
            Ok(exit) => {
                assert_eq!((exit, io.written(0x10)), (Exit::Io, vec![1]), "hardware runs {name}");
            }
            Err(e @ RunError::Emulation { id: 0, .. }) => {
                let context = e.context().unwrap();
                assert_eq!(context.bytes, bytes);
                assert_eq!(context.instruction.as_deref(), Some(name));
                assert_eq!((context.regs.rip, context.regs.rdi), (start + 10, DATA));
                assert!(context.sregs.cs.l && context.sregs.cr0 != 0);
                assert!(e.to_string().contains(&format!("{name} ({:02x} ", bytes[0])), "{e}");
            }
            Err(e) => panic!("{name}: {e}"),
        }
    }
}

/// An emulation failure across two pages that are not neighbours: whatever KVM gives or we read is the guest's code.
#[test]
fn code_across_a_page_border_is_found() {
    let Some(backend) = kvm() else { return };
    let (bytes, name) = HARD[2];
    let mut tiny = TinyVm::new(&backend, VmConfig::bare(), guest::spins());
    let at = 0x3_0000 - 2;
    tiny.write(at, bytes);
    tiny.write(at + bytes.len() as u64, &[0xf4]);
    tiny.change_regs(|r| (r.rip, r.rdi) = (at, DATA));
    match tiny.vcpu().run(&mut IoLog::new()) {
        Ok(exit) => assert_eq!(exit, Exit::Halted, "hardware runs it"),
        Err(e) => assert_eq!(e.context().unwrap().instruction.as_deref(), Some(name), "{e}"),
    }
}

/// Code outside RAM cannot be run: there is a context even without instruction bytes.
#[test]
fn code_outside_ram_is_an_error_with_a_context() {
    let Some(backend) = kvm() else { return };
    let mut tiny = TinyVm::new(&backend, VmConfig::bare(), guest::spins());
    tiny.change_regs(|r| r.rip = guest::DEVICE);
    match tiny.vcpu().run(&mut IoLog::new()) {
        Err(e @ (RunError::Emulation { .. } | RunError::Internal { .. })) => {
            let context = e.context().unwrap();
            assert_eq!((context.regs.rip, context.bytes.len()), (guest::DEVICE, 0), "{e}");
        }
        // Some hosts hand the fetch to the VMM as a device access.
        Ok(exit) => assert_eq!(exit, Exit::Io),
        Err(e) => panic!("{e}"),
    }
}

/// Guest state that the processor refuses is an error with a context, or is refused when it is set.
#[test]
fn impossible_state_is_refused() {
    let Some(backend) = kvm() else { return };
    let mut tiny = TinyVm::new(&backend, VmConfig::bare(), guest::spins());
    let vcpu = tiny.vcpu();
    let mut sregs = vcpu.sregs().unwrap();
    sregs.cr0 = 1 << 31; // paging without protection
    match vcpu.set_sregs(&sregs) {
        Err(e) => assert_eq!(
            e.to_string(),
            "cannot set the control registers of vCPU 0: Invalid argument (os error 22)"
        ),
        Ok(()) => match vcpu.run(&mut IoLog::new()) {
            Err(e) => assert!(e.context().is_some(), "{e}"),
            Ok(exit) => panic!("it ran: {exit:?}"),
        },
    }
}

/// Real mode, as after a reset: there segments matter, and addresses wrap to 20 bits plus a little.
#[test]
fn real_mode_runs() {
    let Some(backend) = kvm() else { return };
    let config = VmConfig::bare();
    // mov ax,0xffff; mov ds,ax; mov byte [0x30],0x5a (linear 0x100020); mov al,[0x32]; out 0x10,al; hlt
    let code = [0xb8, 0xff, 0xff, 0x8e, 0xd8, 0xc6, 0x06, 0x30, 0, 0x5a, 0xa0, 0x32, 0, 0xe6, 0x10, 0xf4];
    let tiny = TinyVm::new(&backend, config.clone(), guest::spins());
    tiny.write(0x6_0000, &code);
    let mut vcpu = tiny.vm.create_vcpu(1).unwrap();
    let mut sregs = vcpu.sregs().unwrap();
    sregs.cs = Segment { base: 0x6_0000, selector: 0x6000, ..sregs.cs };
    vcpu.set_sregs(&sregs).unwrap();
    let mut regs = vcpu.regs().unwrap();
    regs.rip = 0;
    vcpu.set_regs(&regs).unwrap();
    let mut io = IoLog::new();
    assert_eq!(run_through_io(vcpu.as_mut(), &mut io), Exit::Halted);
    let expected = [
        Access::Store(0x10_0020, vec![0x5a]),
        Access::Load(0x10_0022, vec![0xa0]),
        Access::Out(0x10, vec![0xa0]),
    ];
    assert_eq!(io.take(), expected);
}

/// INIT and SIPI start a secondary CPU. Its thread waits in KVM until then, and KVM_RUN says EAGAIN when they come.
#[test]
fn a_secondary_cpu_is_started_by_the_first() {
    let Some(backend) = kvm() else { return };
    // To all but itself, through the local APIC's command register: INIT, then SIPI with vector 0x60.
    let icr = |code: Asm, value| code.mov_rdi(0xfee0_0300).mov_rax(value).store(4);
    let boot = icr(icr(Asm::new(), 0xc4500), 0xc4660);
    let end = boot.here();
    let boot = Guest::machine_code(boot.hlt().jmp(end));
    let mut tiny = TinyVm::with_guests(&backend, VmConfig::default(), &[boot, guest::spins()]);
    // In real mode at 0x60000: mov al,0x33; out 0x10,al; then again and again, so that it never halts.
    tiny.write(0x6_0000, &[0xb0, 0x33, 0xe6, 0x10, 0xeb, 0xfc]);
    let mut second = tiny.vcpus.remove(1);
    let kicker = tiny.vcpus[0].kicker();
    let ap = std::thread::spawn(move || {
        let mut io = IoLog::new();
        let exit = second.run(&mut io);
        kicker.kick();
        (exit.unwrap(), io.take())
    });
    assert_eq!(tiny.vcpu().run(&mut IoLog::new()).unwrap(), Exit::Interrupted);
    assert_eq!(ap.join().unwrap(), (Exit::Io, vec![Access::Out(0x10, vec![0x33])]));
}

/// A kick also ends the wait of a secondary CPU that nobody has started.
#[test]
fn a_secondary_cpu_that_waits_can_be_kicked() {
    let Some(backend) = kvm() else { return };
    let mut tiny = TinyVm::with_guests(&backend, VmConfig::default(), &[guest::spins(), guest::spins()]);
    let mut second = tiny.vcpus.remove(1);
    for _ in 0..3 {
        let kicker = second.kicker();
        let thread = std::thread::spawn(move || kicker.kick());
        assert_eq!(second.run(&mut IoLog::new()).unwrap(), Exit::Interrupted);
        thread.join().unwrap();
    }
}

/// A foreign signal to the vCPU's thread interrupts too, and takes no kick away.
#[test]
fn a_signal_of_somebody_else_interrupts() {
    let Some(backend) = kvm() else { return };
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    let signal = vmm_sys_util::signal::SIGRTMIN() + 3;
    vmm_sys_util::signal::register_signal_handler(signal, nothing).unwrap();
    let mut spin = TinyVm::new(&backend, VmConfig::bare(), guest::spins());
    let (send, receive) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        // SAFETY: no memory is involved.
        send.send(unsafe { libc::gettid() }).unwrap();
        assert_eq!(spin.vcpu().run(&mut IoLog::new()).unwrap(), Exit::Interrupted);
        spin.vcpu().kicker().kick();
        assert_eq!(spin.vcpu().run(&mut IoLog::new()).unwrap(), Exit::Interrupted);
    });
    let tid = receive.recv().unwrap();
    while !thread.is_finished() {
        // SAFETY: no memory is involved. The thread may be gone by now: the call fails then.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signal) };
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    thread.join().unwrap();
}

/// The kick's signal may be blocked in the thread that runs a vCPU, as in programs that block all but in one thread.
#[test]
fn a_thread_that_blocks_signals_can_be_kicked() {
    let Some(backend) = kvm() else { return };
    let mut tiny = TinyVm::new(&backend, VmConfig::bare(), guest::spins());
    let kicker = tiny.vcpu().kicker();
    let runner = std::thread::spawn(move || {
        vmm_sys_util::signal::block_signal(vmm_sys_util::signal::SIGRTMIN()).unwrap();
        tiny.vcpu().run(&mut IoLog::new()).unwrap()
    });
    std::thread::sleep(std::time::Duration::from_millis(30));
    kicker.kick();
    assert_eq!(runner.join().unwrap(), Exit::Interrupted);
}

/// Runs a vCPU to where its state is exact.
fn settle(vcpu: &mut dyn Vcpu) {
    vcpu.kicker().kick();
    assert_eq!(vcpu.run(&mut IoLog::new()).unwrap(), Exit::Interrupted);
}

/// Vector registers, debug registers, the task priority, and the local APIC survive the way into a fresh VM.
#[test]
fn the_state_is_more_than_registers() {
    let Some(backend) = kvm() else { return };
    let vector: Vec<u8> = (0x10..0x20).collect();
    for config in [VmConfig::bare(), VmConfig::default()] {
        // xmm0 <- data; dr0 <- rdi; cr8 <- 5; out; then xmm0 -> data + 16; rax <- dr0; out 4; rax <- cr8; out 1; hlt
        let code = Asm::new().mov_rdi(DATA).load_xmm0().raw(&[0x0f, 0x23, 0xc7]).mov_rax(5);
        let code = code
            .raw(&[0x44, 0x0f, 0x22, 0xc0])
            .out_imm(0x11, 0)
            .mov_edx(0x10)
            .mov_rdi(DATA + 16)
            .store_xmm0();
        let code = code.raw(&[0x0f, 0x21, 0xc0]).output(4).raw(&[0x44, 0x0f, 0x20, 0xc0]).output(1).hlt();
        let guest = Guest::machine_code(code).data(DATA, &vector);
        let mut old = TinyVm::new(&backend, config.clone(), guest.clone());
        assert_eq!(old.vcpu().run(&mut IoLog::new()).unwrap(), Exit::Io);
        settle(old.vcpu());
        let (vm, vcpu) = (old.vm.save().unwrap(), old.vcpu().save().unwrap());
        let mut new = TinyVm::new(&backend, config.clone(), guest.clone());
        new.vm.restore(&vm, Clocks::GoOn).unwrap();
        new.vcpu().restore(&vcpu).unwrap();
        assert_eq!(new.vcpu().sregs().unwrap().cr8, 5);
        let mut io = IoLog::new();
        while io.written(0x10).len() < 5 {
            assert_eq!(new.vcpu().run(&mut io).unwrap(), Exit::Io);
        }
        assert_eq!(new.read(DATA + 16, 16), vector, "{config:?}");
        assert_eq!(io.written(0x10), [&(DATA as u32).to_le_bytes()[..], &[5]].concat(), "{config:?}");
    }
}

/// rdtsc; out 4 of eax, then of edx, which takes a detour over ebx.
fn guest_that_reads_its_counter() -> Guest {
    let code = Asm::new().raw(&[0x0f, 0x31, 0x89, 0xd3]).mov_edx(0x10).output(4).mov_eax_ebx();
    Guest::machine_code(code.output(4).jmp(0))
}

fn read_counter(vcpu: &mut dyn Vcpu) -> u64 {
    let mut io = IoLog::new();
    while io.written(0x10).len() < 8 {
        assert_eq!(vcpu.run(&mut io).unwrap(), Exit::Io);
    }
    u64::from_le_bytes(io.written(0x10).try_into().unwrap())
}

/// Once it has halted it is past the instruction: one that forgot that it waits would go on.
#[test]
fn a_halted_vcpu_is_halted_after_a_restore() {
    let Some(backend) = kvm() else { return };
    let guest = Guest::machine_code(Asm::new().hlt().mov_edx(0x10).output(1).jmp(0));
    // Long enough for it to come to the instruction, in most cases: nothing fails where it was not.
    let run = |vcpu: &mut dyn Vcpu| {
        let kicker = vcpu.kicker();
        let kick = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(300));
            kicker.kick();
        });
        assert_eq!(vcpu.run(&mut IoLog::new()).unwrap(), Exit::Interrupted);
        kick.join().unwrap();
    };
    let mut old = TinyVm::new(&backend, VmConfig::default(), guest.clone());
    run(old.vcpu());
    let (vm, vcpu) = (old.vm.save().unwrap(), old.vcpu().save().unwrap());
    let mut new = TinyVm::new(&backend, VmConfig::default(), guest);
    new.vm.restore(&vm, Clocks::GoOn).unwrap();
    new.vcpu().restore(&vcpu).unwrap();
    run(new.vcpu());
}

/// A VM's clocks go on over a save and a restore, and all counters agree: what one vCPU reads after another is never less.
#[test]
fn time_goes_on_in_a_fresh_vm() {
    let Some(backend) = kvm() else { return };
    let guests = [guest_that_reads_its_counter(), guest_that_reads_its_counter()];
    let mut tiny = TinyVm::with_guests(&backend, VmConfig::bare(), &guests);
    let mut last = 0;
    for _ in 0..4 {
        for vcpu in &mut tiny.vcpus {
            let tsc = read_counter(vcpu.as_mut());
            assert!(tsc > last, "the counter went back: {last} then {tsc}");
            last = tsc;
            settle(vcpu.as_mut());
        }
        let (vm, vcpus) = (tiny.vm.save().unwrap(), tiny.vcpus.iter().map(|v| v.save().unwrap()));
        let vcpus: Vec<_> = vcpus.collect();
        tiny = TinyVm::with_guests(&backend, VmConfig::bare(), &guests);
        tiny.vm.restore(&vm, Clocks::GoOn).unwrap();
        for (vcpu, state) in tiny.vcpus.iter_mut().zip(&vcpus) {
            vcpu.restore(state).unwrap();
        }
    }
}

/// How long the guest's counter went on over a restore that came a while after the save: in any case more than it did while the guest
/// did not exist, or in any case not longer than the guest existed.
#[test]
fn time_goes_on_or_stands_still_over_a_restore_as_asked() {
    let Some(backend) = kvm() else { return };
    let guests = [guest_that_reads_its_counter(), guest_that_reads_its_counter()];
    for clocks in [Clocks::GoOn, Clocks::StandStill] {
        let mut old = TinyVm::with_guests(&backend, VmConfig::bare(), &guests);
        let before = host_tsc();
        let seen = read_counter(old.vcpu());
        old.vcpus.iter_mut().for_each(|vcpu| settle(vcpu.as_mut()));
        let vcpus: Vec<_> = old.vcpus.iter().map(|vcpu| vcpu.save().unwrap()).collect();
        let vm = old.vm.save().unwrap();
        let saved = host_tsc();
        std::thread::sleep(std::time::Duration::from_millis(100));

        let mut new = TinyVm::with_guests(&backend, VmConfig::bare(), &guests);
        let restored = host_tsc();
        new.vm.restore(&vm, clocks).unwrap();
        for (vcpu, state) in new.vcpus.iter_mut().zip(&vcpus) {
            vcpu.restore(state).unwrap();
        }
        let read: Vec<_> = new.vcpus.iter_mut().map(|vcpu| read_counter(vcpu.as_mut())).collect();
        if clocks == Clocks::StandStill && (before..saved).contains(&seen) {
            eprintln!(
                "NOT RUN: time that stands still: this KVM shows guests the host's own counter, which does not"
            );
            continue;
        }
        let existed = (saved - before) + (host_tsc() - restored);
        assert!(seen < read[0] && read[0] < read[1], "a counter went back: {seen}, then {read:?}");
        match clocks {
            Clocks::GoOn => assert!(read[0] - seen >= restored - saved, "{} ticks", read[0] - seen),
            Clocks::StandStill => assert!(read[1] - seen <= existed, "{} ticks of {existed}", read[1] - seen),
        }
    }
}

fn host_tsc() -> u64 {
    // SAFETY: every processor that has KVM has RDTSC, and reading it touches no memory.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// A reset clears what the guest did to the interrupt controllers: the next run sets them up again and works.
#[test]
fn a_reset_reaches_the_interrupt_controllers() {
    let Some(backend) = kvm() else { return };
    let mut tiny = TinyVm::new(&backend, VmConfig::default(), guest::interrupts());
    let (vm, vcpu) = (tiny.vm.save().unwrap(), tiny.vcpu().save().unwrap());
    for _ in 0..3 {
        let mut io = IoLog::new();
        assert_eq!(tiny.vcpu().run(&mut io).unwrap(), Exit::Io);
        tiny.vm.set_irq_line(4, true).unwrap();
        assert_eq!(tiny.vcpu().run(&mut io).unwrap(), Exit::Io);
        assert_eq!(io.written(INTERRUPT_PORT), [4]);
        // In the handler, before the interrupt is acknowledged, and with the line still high.
        tiny.vm.restore(&vm, Clocks::GoOn).unwrap();
        tiny.vcpu().restore(&vcpu).unwrap();
        tiny.vm.set_irq_line(4, false).unwrap();
    }
}

/// A line that is raised before the guest knows of it interrupts nothing: not a fresh guest, and not one that was reset, which might
/// otherwise get what the one before it was about to get.
#[test]
fn nothing_interrupts_a_guest_before_it_asks_for_it() {
    let Some(backend) = kvm() else { return };
    let mut tiny = TinyVm::new(&backend, VmConfig::default(), guest::lets_interrupts_in());
    let (vm, vcpu) = (tiny.vm.save().unwrap(), tiny.vcpu().save().unwrap());
    for _ in 0..2 {
        tiny.vm.set_irq_line(4, true).unwrap();
        let mut io = IoLog::new();
        for _ in 0..2 {
            assert_eq!(tiny.vcpu().run(&mut io).unwrap(), Exit::Io);
        }
        assert_eq!((io.written(READY_PORT), io.written(INTERRUPT_PORT)), (vec![0, 1], vec![]));
        tiny.vm.restore(&vm, Clocks::GoOn).unwrap();
        tiny.vcpu().restore(&vcpu).unwrap();
    }
}

/// Saving finds MSRs that a program can set, and does not fail over those that this vCPU has not; twice in a row alike.
#[test]
fn msrs_are_saved_as_far_as_there_are_any() {
    let Some(backend) = kvm() else { return };
    let mut tiny = TinyVm::new(&backend, VmConfig::default(), guest::counts());
    let (lstar, value) = (0xc000_0082, 0xffff_8000_1234_5678);
    tiny.vcpu().set_msrs(&[Msr { index: lstar, value }]).unwrap();
    let saved = tiny.vcpu().save().unwrap();
    tiny.vcpu().set_msrs(&[Msr { index: lstar, value: 0 }]).unwrap();
    tiny.vcpu().save().unwrap();
    tiny.vcpu().restore(&saved).unwrap();
    assert_eq!(tiny.vcpu().msrs(&[lstar]).unwrap(), [Msr { index: lstar, value }]);
}

/// KVM keeps some pages of the guest's addresses for itself: memory there is refused, with the reason.
#[test]
fn memory_does_not_cover_what_kvm_needs() {
    let Some(backend) = kvm() else { return };
    let tiny = TinyVm::new(&backend, VmConfig::bare(), guest::spins());
    // High RAM ends far above; a window of RAM that reaches over the reserved pages does not exist in a layout.
    let mapping = vm_memory::MmapRegion::new(0x8000).unwrap();
    let base = vm_memory::GuestAddress(Layout::KVM_RESERVED.start - 0x1000);
    let region: Arc<drystone_memory::RamRegion> =
        Arc::new(vm_memory::GuestRegionMmap::new(mapping, base).unwrap());
    let refused = tiny.vm.map_memory(region, drystone_hypervisor::MapOptions::default());
    assert!(matches!(refused, Err(Error::Invalid { why, .. }) if why.contains("KVM itself")));
}

/// What is said when KVM has lost what it wrote to a ring.
const OVERRUN: &str = "KVM has written over entries";

/// Software KVM may interpret so much at a time that it writes more pages than a ring has entries. The guest ends with an
/// error then, rather than spin; what was lost counts as written, or the log cannot be read, and that is said.
#[test]
fn a_ring_that_overflows_hides_nothing() {
    let Some(backend) = kvm() else { return };
    let mut config = VmConfig::bare();
    config.dirty = DirtyTracking::Ring { entries: 1024 };
    let pages = 3 * 1024;
    let code = Asm::new().mov_rdi(guest::DEVICE).mov_ecx(pages);
    let again = code.here();
    let code = code.store_bl().add_rdi(0x1000).dec_ecx().jnz(again).hlt();
    let mut tiny = TinyVm::new(&backend, config, Guest::machine_code(code));
    let mapping = vm_memory::MmapRegion::new(pages as usize * 0x1000).unwrap();
    let base = vm_memory::GuestAddress(guest::DEVICE);
    let region: Arc<drystone_memory::RamRegion> =
        Arc::new(vm_memory::GuestRegionMmap::new(mapping, base).unwrap());
    let _guard = tiny.vm.map_memory(region, drystone_hypervisor::MapOptions::log_dirty()).unwrap();
    match tiny.vcpu().run(&mut IoLog::new()) {
        Ok(exit) => assert_eq!(exit, Exit::Halted),
        Err(e) => {
            let said = e.to_string();
            assert!(
                said.contains("a dirty ring full that has nothing in it") || said.contains(OVERRUN),
                "{said}"
            );
        }
    }
    let left = tiny.vcpu().regs().unwrap().rcx as usize;
    let log = match tiny.vm.dirty_log(guest::DEVICE) {
        Err(e) if e.to_string().contains(OVERRUN) => return,
        log => log.unwrap(),
    };
    let written = (0..pages as usize - left).filter(|page| log[page / 64] >> (page % 64) & 1 == 0);
    assert_eq!(written.collect::<Vec<_>>(), [0_usize; 0], "written pages that are not in the log");
}

/// Dropping everything in the worst order touches nothing that is gone.
#[test]
fn parts_are_dropped_in_any_order() {
    let Some(backend) = kvm() else { return };
    let Backend::Real(host) = &backend else { unreachable!() };
    for order in 0..6 {
        let vm = host.create_vm(&VmConfig::default()).unwrap();
        let ram = GuestRam::new(&Layout::new(1 << 16, 36).unwrap(), &RamConfig::default()).unwrap();
        let guard = vm.map_memory(ram.regions().remove(0), Default::default()).unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        let kicker = vcpu.kicker();
        drop(ram);
        let mut parts: Vec<Box<dyn std::any::Any>> = vec![Box::new(vm), Box::new(guard), Box::new(vcpu)];
        drop(parts.remove(order % 3));
        kicker.kick();
        drop(parts.remove(order / 3));
        drop(parts);
        kicker.kick();
    }
}

#[test]
fn what_does_not_open_says_what_to_do() {
    let open = |path: &str| Kvm::open_path(Path::new(path)).err().unwrap().to_string();
    let missing = open("/nonexistent/kvm");
    assert!(missing.starts_with("/nonexistent/kvm: cannot open: ") && missing.contains("kvm_"), "{missing}");
    let wrong = open("/dev/null");
    assert!(wrong.contains("/dev/null") && wrong.contains("not KVM"), "{wrong}");
    assert!(open("/dev/kvm\0").contains("/dev/kvm"));
}
