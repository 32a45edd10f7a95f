//! Tiny guests on this host's KVM, whatever it is: hardware, or software that interprets kernel-mode code.
//!
//! Without a `/dev/kvm` that opens they say so and pass; with `DRYSTONE_REQUIRE_KVM=1` they fail.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_hypervisor::*;
use drystone_kvm::Kvm;
use drystone_memory::{Backed, GuestRam, Layout, RamConfig};
use std::sync::Arc;
use std::thread;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};
use vmm_sys_util::eventfd::EventFd;

const CODE: u64 = 0x1000;

fn kvm() -> Option<Kvm> {
    match Kvm::open() {
        Ok(kvm) => Some(kvm),
        Err(e) if std::env::var_os("DRYSTONE_REQUIRE_KVM").is_none() => {
            eprintln!("NOT RUN: {e}");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

/// A VM with 1 MiB of RAM whose vCPU 0 starts at `code` in 16-bit real mode.
struct Tiny {
    vcpu: Box<dyn Vcpu>,
    ram: GuestRam,
    vm: Arc<dyn Vm>,
    _mapped: Vec<Guard>,
}

fn tiny(config: &VmConfig, code: &[u8]) -> Option<Tiny> {
    let vm = kvm()?.create_vm(config).unwrap();
    let ram = GuestRam::new(&Layout::new(1 << 20, 36).unwrap(), &RamConfig::default()).unwrap();
    ram.view().memory().write_slice(code, GuestAddress(CODE)).unwrap();
    let mapped =
        ram.regions().into_iter().map(|r| vm.map_memory(r, MapOptions::log_dirty()).unwrap()).collect();
    let mut vcpu = vm.create_vcpu(0).unwrap();
    start(vcpu.as_mut());
    Some(Tiny { vcpu, ram, vm, _mapped: mapped })
}

fn start(vcpu: &mut dyn Vcpu) {
    let mut sregs = vcpu.sregs().unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).unwrap();
    vcpu.set_regs(&Regs { rip: CODE, rflags: 2, rsp: 0x8000, ..Regs::default() }).unwrap();
}

/// Writes down every access; answers reads with 0xa0, 0xa1, ….
#[derive(Default)]
struct Recorder {
    seen: Vec<(char, u64, Vec<u8>)>,
    next: u8,
}

impl Recorder {
    fn answer(&mut self, kind: char, addr: u64, data: &mut [u8]) {
        for byte in data.iter_mut() {
            *byte = 0xa0 + self.next;
            self.next += 1;
        }
        self.seen.push((kind, addr, data.to_vec()));
    }
}

impl IoHandler for Recorder {
    fn pio_read(&mut self, port: u16, data: &mut [u8]) {
        self.answer('i', port.into(), data);
    }
    fn pio_write(&mut self, port: u16, data: &[u8]) {
        self.seen.push(('o', port.into(), data.to_vec()));
    }
    fn mmio_read(&mut self, addr: u64, data: &mut [u8]) {
        self.answer('r', addr, data);
    }
    fn mmio_write(&mut self, addr: u64, data: &[u8]) {
        self.seen.push(('w', addr, data.to_vec()));
    }
}

fn run_to_exit(vcpu: &mut dyn Vcpu, io: &mut dyn IoHandler) -> Result<Exit, RunError> {
    for _ in 0..10_000 {
        match vcpu.run(io)? {
            Exit::Io => {}
            exit => return Ok(exit),
        }
    }
    panic!("the guest does not stop");
}

#[test]
fn ports_of_every_width_and_strings() {
    // mov al,0x11; out 0x10,al; mov ax,0x2233; out 0x10,ax; mov eax,0x44556677; out 0x10,eax;
    // in al,0x20; out 0x21,al; mov si,0x1100; mov dx,0x30; mov cx,3; cld; rep outsw; mov di,0x1200; mov cx,2; rep insb; hlt
    let code = [
        0xb0, 0x11, 0xe6, 0x10, 0xb8, 0x33, 0x22, 0xe7, 0x10, 0x66, 0xb8, 0x77, 0x66, 0x55, 0x44, 0x66, 0xe7,
        0x10, 0xe4, 0x20, 0xe6, 0x21, 0xbe, 0x00, 0x11, 0xba, 0x30, 0x00, 0xb9, 0x03, 0x00, 0xfc, 0xf3, 0x6f,
        0xbf, 0x00, 0x12, 0xb9, 0x02, 0x00, 0xf3, 0x6c, 0xf4,
    ];
    let Some(mut tiny) = tiny(&VmConfig::bare(), &code) else { return };
    tiny.ram.view().memory().write_slice(&[1, 2, 3, 4, 5, 6], GuestAddress(0x1100)).unwrap();
    let mut io = Recorder::default();
    assert_eq!(run_to_exit(tiny.vcpu.as_mut(), &mut io).unwrap(), Exit::Halted);
    let expected: Vec<(char, u64, Vec<u8>)> = vec![
        ('o', 0x10, vec![0x11]),
        ('o', 0x10, vec![0x33, 0x22]),
        ('o', 0x10, vec![0x77, 0x66, 0x55, 0x44]),
        ('i', 0x20, vec![0xa0]),
        ('o', 0x21, vec![0xa0]),
        ('o', 0x30, vec![1, 2]),
        ('o', 0x30, vec![3, 4]),
        ('o', 0x30, vec![5, 6]),
        ('i', 0x30, vec![0xa1]),
        ('i', 0x30, vec![0xa2]),
    ];
    assert_eq!(io.seen, expected);
    let mut read = [0; 2];
    tiny.ram.view().memory().read_slice(&mut read, GuestAddress(0x1200)).unwrap();
    assert_eq!(read, [0xa1, 0xa2]);
}

#[test]
fn memory_that_is_not_there_is_a_device() {
    // mov ax,0xffff; mov ds,ax; mov byte [0x10+0x20],0x5a (linear 0x100020); mov al,[0x32]; out 0x10,al; hlt
    let code =
        [0xb8, 0xff, 0xff, 0x8e, 0xd8, 0xc6, 0x06, 0x30, 0x00, 0x5a, 0xa0, 0x32, 0x00, 0xe6, 0x10, 0xf4];
    let Some(mut tiny) = tiny(&VmConfig::bare(), &code) else { return };
    let mut io = Recorder::default();
    assert_eq!(run_to_exit(tiny.vcpu.as_mut(), &mut io).unwrap(), Exit::Halted);
    let expected = vec![('w', 0x10_0020, vec![0x5a]), ('r', 0x10_0022, vec![0xa0]), ('o', 0x10, vec![0xa0])];
    assert_eq!(io.seen, expected);
}

#[test]
fn a_triple_fault_is_a_shutdown() {
    // ud2, in 32-bit protected mode with an empty interrupt table: #UD, #DF, shutdown
    let Some(mut tiny) = tiny(&VmConfig::bare(), &[0x0f, 0x0b, 0xf4]) else { return };
    let mut sregs = tiny.vcpu.sregs().unwrap();
    let flat = Segment { limit: u32::MAX, present: true, db: true, s: true, g: true, ..Segment::default() };
    sregs.cs = Segment { selector: 8, kind: 11, ..flat };
    let data = Segment { selector: 16, kind: 3, ..flat };
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    sregs.idt = DescriptorTable::default();
    sregs.cr0 |= 1;
    tiny.vcpu.set_sregs(&sregs).unwrap();
    let exit = run_to_exit(tiny.vcpu.as_mut(), &mut Recorder::default());
    assert_eq!(exit.unwrap(), Exit::Shutdown);
}

#[test]
fn a_kick_is_latched_before_during_and_after_a_run() {
    let Some(mut tiny) = tiny(&VmConfig::bare(), &[0xeb, 0xfe]) else { return }; // jmp $
    let kicker = tiny.vcpu.kicker();
    kicker.kick();
    kicker.kick();
    let mut io = Recorder::default();
    assert_eq!(tiny.vcpu.run(&mut io).unwrap(), Exit::Interrupted);
    for _ in 0..200 {
        let other = {
            let kicker = kicker.clone();
            thread::spawn(move || kicker.kick())
        };
        assert_eq!(tiny.vcpu.run(&mut io).unwrap(), Exit::Interrupted);
        other.join().unwrap();
        assert_eq!(tiny.vcpu.regs().unwrap().rip, CODE);
    }
    drop(tiny);
    kicker.kick();
}

#[test]
fn a_pending_read_is_complete_once_interrupted() {
    // in al,0x20; jmp $
    let Some(mut tiny) = tiny(&VmConfig::bare(), &[0xe4, 0x20, 0xeb, 0xfe]) else { return };
    let mut io = Recorder::default();
    assert_eq!(tiny.vcpu.run(&mut io).unwrap(), Exit::Io);
    tiny.vcpu.kicker().kick();
    assert_eq!(tiny.vcpu.run(&mut io).unwrap(), Exit::Interrupted);
    let regs = tiny.vcpu.regs().unwrap();
    assert_eq!((regs.rax & 0xff, regs.rip), (0xa0, CODE + 2));
}

#[test]
fn a_halted_guest_with_an_interrupt_controller_waits_for_a_kick() {
    let Some(mut tiny) = tiny(&VmConfig::default(), &[0xf4, 0xeb, 0xfd]) else { return };
    let kicker = tiny.vcpu.kicker();
    let other = thread::spawn(move || {
        thread::sleep(std::time::Duration::from_millis(20));
        kicker.kick();
    });
    assert_eq!(tiny.vcpu.run(&mut Recorder::default()).unwrap(), Exit::Interrupted);
    other.join().unwrap();
}

#[test]
fn the_state_goes_into_a_fresh_machine_and_back_to_the_start() {
    // mov bx,0x1234; in al,0x30; out 0x10,al; mov al,bl; out 0x11,al; cli; hlt
    let code = [0xbb, 0x34, 0x12, 0xe4, 0x30, 0xe6, 0x10, 0x88, 0xd8, 0xe6, 0x11, 0xfa, 0xf4];
    for config in [VmConfig::bare(), VmConfig::default()] {
        let Some(mut first) = tiny(&config, &code) else { return };
        let fresh = first.vcpu.save().unwrap();
        let mut io = Recorder::default();
        assert_eq!(first.vcpu.run(&mut io).unwrap(), Exit::Io);
        first.vcpu.kicker().kick();
        assert_eq!(first.vcpu.run(&mut io).unwrap(), Exit::Interrupted);
        let (vcpu, vm) = (first.vcpu.save().unwrap(), first.vm.save().unwrap());

        let mut second = tiny(&config, &code).unwrap();
        second.vm.restore(&vm).unwrap();
        second.vcpu.restore(&vcpu).unwrap();
        for machine in [&mut second, &mut first] {
            let mut io = Recorder::default();
            assert_eq!(machine.vcpu.run(&mut io).unwrap(), Exit::Io);
            assert_eq!(machine.vcpu.run(&mut io).unwrap(), Exit::Io);
            assert_eq!(io.seen, [('o', 0x10, vec![0xa0]), ('o', 0x11, vec![0x34])]);
        }
        first.vcpu.restore(&fresh).unwrap();
        assert_eq!(first.vcpu.regs().unwrap().rip, CODE);
        assert_eq!(first.vcpu.save().unwrap().kind(), "kvm-vcpu");
        assert!(first.vm.restore(&vcpu).is_err(), "a vCPU's state is not a VM's");
    }
}

#[test]
fn doorbells_ring_without_an_exit_and_only_for_their_value() {
    // mov al,1; out 0x10,al; mov al,2; out 0x10,al; mov al,7; out 0x11,al; hlt
    let code = [0xb0, 1, 0xe6, 0x10, 0xb0, 2, 0xe6, 0x10, 0xb0, 7, 0xe6, 0x11, 0xf4];
    let Some(mut tiny) = tiny(&VmConfig::bare(), &code) else { return };
    let bell = |value| {
        let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let guard =
            tiny.vm.register_ioeventfd(&event, IoAddress::Pio(0x10), Some(Datamatch { value, len: 1 }));
        (event, guard.unwrap())
    };
    let ((one, _guard), (two, guard)) = (bell(1), bell(2));
    let any = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let _any_guard = tiny.vm.register_ioeventfd(&any, IoAddress::Pio(0x11), None).unwrap();
    drop(guard);
    let mut io = Recorder::default();
    assert_eq!(run_to_exit(tiny.vcpu.as_mut(), &mut io).unwrap(), Exit::Halted);
    assert_eq!(io.seen, [('o', 0x10, vec![2])]);
    assert_eq!((one.read().unwrap(), any.read().unwrap()), (1, 1));
    assert!(two.read().is_err());
}

#[test]
fn guest_writes_are_logged_and_unmapped_memory_is_let_go() {
    // mov byte [0x3000],1; hlt; hlt
    let code = [0xc6, 0x06, 0x00, 0x30, 1, 0xf4];
    let Some(mut tiny) = tiny(&VmConfig::bare(), &code) else { return };
    tiny.vm.dirty_log(0).unwrap();
    run_to_exit(tiny.vcpu.as_mut(), &mut Recorder::default()).unwrap();
    assert_eq!(tiny.vm.dirty_log(0).unwrap()[0], 1 << 3);
    assert!(tiny.vm.dirty_log(0x1000).is_err());

    let layout = Layout::new(1 << 20, 36).unwrap();
    let region = GuestRam::new(&layout, &RamConfig::default()).unwrap().regions().remove(0);
    let region: Arc<dyn Backed> = region;
    assert!(tiny.vm.map_memory(region.clone(), MapOptions::default()).is_err(), "it overlaps");
    tiny._mapped.clear();
    let guard = tiny.vm.map_memory(region.clone(), MapOptions::read_only()).unwrap();
    assert_eq!(Arc::strong_count(&region), 2);
    drop(guard);
    assert_eq!(Arc::strong_count(&region), 1);
}

#[test]
fn an_event_reaches_a_halted_guest_as_an_interrupt() {
    // Set up the PIC so that line 4 is vector 0x24, unmask it; out 0x99,al; sti; hlt; jmp. Handler at 0x1100: mov al,0x77; out 0x10,al; hlt
    let mut code = vec![];
    for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 0x04), (0x21, 0x01), (0x21, 0xef)] {
        code.extend([0xb0, value, 0xe6, port]);
    }
    code.extend([0xe6, 0x99, 0xfb, 0xf4, 0xeb, 0xfd]);
    let Some(mut tiny) = tiny(&VmConfig::default(), &code) else { return };
    let memory = tiny.ram.view().memory();
    memory.write_slice(&[0xb0, 0x77, 0xe6, 0x10, 0xeb, 0xfe], GuestAddress(0x1100)).unwrap();
    memory.write_slice(&[0x00, 0x11, 0, 0], GuestAddress(0x24 * 4)).unwrap();
    let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let _guard = tiny.vm.register_irqfd(&event, 4).unwrap();
    let mut io = Recorder::default();
    assert_eq!(tiny.vcpu.run(&mut io).unwrap(), Exit::Io); // the guest is ready
    event.write(1).unwrap();
    assert_eq!(tiny.vcpu.run(&mut io).unwrap(), Exit::Io);
    assert_eq!(io.seen, [('o', 0x99, vec![0xef]), ('o', 0x10, vec![0x77])]);
}

#[test]
fn an_instruction_that_cannot_be_emulated_is_named() {
    // popcnt ax,bx; out 0x10,al; hlt
    let Some(mut tiny) = tiny(&VmConfig::bare(), &[0xf3, 0x0f, 0xb8, 0xc3, 0xe6, 0x10, 0xf4]) else { return };
    match run_to_exit(tiny.vcpu.as_mut(), &mut Recorder::default()) {
        Ok(exit) => assert_eq!(exit, Exit::Halted, "hardware runs it"),
        Err(RunError::Emulation { id: 0, context }) => {
            assert_eq!(context.bytes, [0xf3, 0x0f, 0xb8, 0xc3]);
            assert_eq!(context.instruction.as_deref(), Some("popcnt ax,bx"));
            assert_eq!(context.regs.rip, CODE);
        }
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn what_does_not_open_says_what_to_do() {
    let missing = Kvm::open_path("/nonexistent/kvm".as_ref()).err().unwrap().to_string();
    assert!(missing.contains("/nonexistent/kvm") && missing.contains("kvm_intel"), "{missing}");
    let wrong = Kvm::open_path("/dev/null".as_ref()).err().unwrap().to_string();
    assert!(wrong.contains("/dev/null") && wrong.contains("not KVM"), "{wrong}");
}
