use crate::guest::{self, FIRST_VECTOR, INTERRUPT_PORT, READY_PORT};
use crate::{Access, Asm, Backend, Guest, IoLog, TinyVm, run_through_io};
use drystone_hypervisor::{Clocks, Error, Exit, Msi, Vcpu, VmConfig};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const VECTOR: u8 = FIRST_VECTOR;

/// Configurations with local APICs.
fn configs() -> [VmConfig; 2] {
    [VmConfig::default(), VmConfig::split()]
}

/// Runs until the guest of [`guest::messages`] reports an interrupt.
fn next(vcpu: &mut dyn Vcpu) -> u8 {
    let mut io = IoLog::new();
    assert_eq!(vcpu.run(&mut io).unwrap(), Exit::Io);
    match io.take().as_slice() {
        [Access::Out(INTERRUPT_PORT, data)] => data[0],
        other => panic!("{other:?}"),
    }
}

fn no_other(vcpu: &mut dyn Vcpu) {
    let mut io = IoLog::new();
    vcpu.kicker().kick();
    assert_eq!((run_through_io(vcpu, &mut io), io.take()), (Exit::Interrupted, vec![]));
}

/// A VM whose vCPUs wait for messages.
fn ready(backend: &Backend, config: &VmConfig, vcpus: usize) -> TinyVm {
    let guests = vec![guest::messages(); vcpus];
    let mut tiny = TinyVm::with_guests(backend, config.clone(), &guests);
    for vcpu in &mut tiny.vcpus {
        let mut io = IoLog::new();
        vcpu.start().unwrap();
        assert_eq!(vcpu.run(&mut io).unwrap(), Exit::Io);
        assert_eq!(io.take(), [Access::Out(READY_PORT, vec![0])]);
    }
    tiny
}

/// A message reaches the vCPU that it is for, once, from any thread; one for nobody is lost.
pub fn messages_reach_their_vcpu(backend: &Backend) {
    for config in configs() {
        let mut tiny = ready(backend, &config, 2);
        for _ in 0..3 {
            tiny.vm.signal_msi(Msi::fixed(1, VECTOR)).unwrap();
            assert_eq!(next(tiny.vcpus[1].as_mut()), VECTOR);
        }
        tiny.vm.signal_msi(Msi::fixed(7, VECTOR)).unwrap();
        no_other(tiny.vcpus[1].as_mut());
        no_other(tiny.vcpus[0].as_mut());
        let vm = tiny.vm.clone();
        let thread = std::thread::spawn(move || {
            // Most likely the guest is halted by then; the outcome is the same if not.
            std::thread::sleep(std::time::Duration::from_millis(5));
            vm.signal_msi(Msi::fixed(0, VECTOR + 1)).unwrap();
        });
        assert_eq!(next(tiny.vcpus[0].as_mut()), VECTOR + 1);
        thread.join().unwrap();
        let everybody = Msi { address: 0xfeef_f000, data: u32::from(VECTOR) + 2 };
        tiny.vm.signal_msi(everybody).unwrap();
        for vcpu in &mut tiny.vcpus {
            assert_eq!(next(vcpu.as_mut()), VECTOR + 2);
            no_other(vcpu.as_mut());
        }
    }
}

/// A non-maskable interrupt is a message too.
pub fn a_message_can_be_an_nmi(backend: &Backend) {
    for config in configs() {
        let mut tiny = ready(backend, &config, 2);
        for _ in 0..3 {
            tiny.vm.signal_msi(Msi::nmi(1)).unwrap();
            assert_eq!(next(tiny.vcpus[1].as_mut()), 2);
        }
        no_other(tiny.vcpus[0].as_mut());
        no_other(tiny.vcpus[1].as_mut());
    }
}

/// Messages that have come, and that the guest has not taken yet, go with the state, and come once each.
pub fn messages_survive_a_save(backend: &Backend) {
    for config in configs() {
        let mut old = ready(backend, &config, 1);
        no_other(old.vcpu());
        old.vm.signal_msi(Msi::nmi(0)).unwrap();
        old.vm.signal_msi(Msi::fixed(0, VECTOR)).unwrap();
        let (vm, vcpu) = (old.vm.save().unwrap(), old.vcpu().save().unwrap());

        let mut new = TinyVm::new(backend, config.clone(), guest::messages());
        new.vm.restore(&vm, Clocks::GoOn).unwrap();
        new.vcpu().restore(&vcpu).unwrap();
        let mut io = IoLog::new();
        // A guest that is a closure starts anew, and says once more that it is ready.
        while io.written(INTERRUPT_PORT).len() < 2 {
            assert_eq!(new.vcpu().run(&mut io).unwrap(), Exit::Io);
        }
        let mut taken = io.written(INTERRUPT_PORT);
        taken.sort_unstable();
        assert_eq!(taken, [2, VECTOR], "{config:?}");
        no_other(new.vcpu());
    }
}

/// An event sends its message; the message changes while the guest runs; lines go on working beside it.
pub fn an_event_sends_its_message(backend: &Backend) {
    for config in configs() {
        let mut tiny = ready(backend, &config, 1);
        let events = [event(), event()];
        let routes = events.each_ref().map(|event| tiny.vm.create_msi_route(event).unwrap());
        for round in 0..3 {
            for (n, route) in (0..).zip(&routes) {
                route.set(Some(Msi::fixed(0, VECTOR + (round + n) % 4))).unwrap();
            }
            for (n, event) in (0..).zip(&events) {
                event.write(1).unwrap();
                assert_eq!(next(tiny.vcpu()), VECTOR + (round + n) % 4);
            }
            no_other(tiny.vcpu());
        }
        let [first, second] = routes;
        drop(first);
        events[0].write(1).unwrap();
        events[1].write(1).unwrap();
        assert_eq!(next(tiny.vcpu()), VECTOR + 3);
        no_other(tiny.vcpu());
        drop(tiny);
        drop(second);
    }
}

/// While it is masked an event waits; it sends once when it is unmasked, with the message that is set then.
pub fn a_masked_event_waits(backend: &Backend) {
    for config in configs() {
        let mut tiny = ready(backend, &config, 1);
        let event = event();
        let route = tiny.vm.create_msi_route(&event).unwrap();
        for round in 0..4 {
            assert!(!route.is_pending());
            event.write(1).unwrap();
            event.write(1).unwrap();
            assert!(route.is_pending());
            no_other(tiny.vcpu());
            route.set(Some(Msi::fixed(0, VECTOR + round))).unwrap();
            assert_eq!(next(tiny.vcpu()), VECTOR + round);
            no_other(tiny.vcpu());
            event.write(1).unwrap();
            assert_eq!(next(tiny.vcpu()), VECTOR + round);
            no_other(tiny.vcpu());
            assert!(!route.is_pending());
            route.set(None).unwrap();
            route.set(None).unwrap();
        }
        event.write(1).unwrap();
        event.read().unwrap();
        assert!(!route.is_pending(), "taken back");
        route.set(Some(Msi::fixed(0, VECTOR))).unwrap();
        no_other(tiny.vcpu());
    }
}

/// Messages do not take the lines away from the interrupt controllers.
pub fn lines_and_messages_live_together(backend: &Backend) {
    let mut tiny = TinyVm::new(backend, VmConfig::default(), guest::interrupts());
    let mut io = IoLog::new();
    assert_eq!(tiny.vcpu().run(&mut io).unwrap(), Exit::Io);
    let (line, message) = (event(), event());
    let _wire = tiny.vm.register_irqfd(&line, 5).unwrap();
    let route = tiny.vm.create_msi_route(&message).unwrap();
    route.set(Some(Msi::fixed(0, VECTOR))).unwrap();
    line.write(1).unwrap();
    assert_eq!(next(tiny.vcpu()), 5);
    tiny.vm.set_irq_line(6, true).unwrap();
    assert_eq!(next(tiny.vcpu()), 6);
}

/// Without local APICs there is nobody to send a message to.
pub fn messages_need_a_local_apic(backend: &Backend) {
    let tiny = TinyVm::new(backend, VmConfig::bare(), guest::spins());
    assert!(matches!(tiny.vm.signal_msi(Msi::fixed(0, VECTOR)), Err(Error::Call { .. })));
    assert!(matches!(tiny.vm.create_msi_route(&event()).err(), Some(Error::Call { .. })));
    let tiny = TinyVm::new(backend, VmConfig::split(), guest::spins());
    assert!(matches!(tiny.vm.set_irq_line(4, true), Err(Error::Call { .. })), "local APICs have no lines");
    assert!(matches!(tiny.vm.register_irqfd(&event(), 4), Err(Error::Call { .. })));
}

/// The guest's acknowledgement of a level-triggered message of the VMM's I/O APIC is an exit; of an edge it is not.
pub fn an_acknowledged_pin_exits(backend: &Backend) {
    const LEVEL: u32 = 1 << 15;
    let mut tiny = ready(backend, &VmConfig::split(), 1);
    let (level, edge) = (event(), event());
    let level_route = tiny.vm.create_pin_route(4, &level).unwrap();
    let edge_route = tiny.vm.create_pin_route(5, &edge).unwrap();
    let message = Msi::fixed(0, VECTOR);
    level_route.set(Some(Msi { data: message.data | LEVEL, ..message })).unwrap();
    edge_route.set(Some(Msi::fixed(0, VECTOR + 1))).unwrap();
    for _ in 0..3 {
        level.write(1).unwrap();
        assert_eq!(next(tiny.vcpu()), VECTOR);
        assert_eq!(tiny.vcpu().run(&mut IoLog::new()).unwrap(), Exit::IoApicEoi { vector: VECTOR });
        edge.write(1).unwrap();
        assert_eq!(next(tiny.vcpu()), VECTOR + 1);
        no_other(tiny.vcpu());
    }
    for pin in [4, 24] {
        assert!(matches!(tiny.vm.create_pin_route(pin, &level).err(), Some(Error::Invalid { .. })));
    }
    drop(level_route);
    drop(tiny.vm.create_pin_route(4, &level).unwrap());
    for config in [VmConfig::bare(), VmConfig::default()] {
        let tiny = TinyVm::new(backend, config, guest::spins());
        assert!(matches!(tiny.vm.create_pin_route(4, &level).err(), Some(Error::Call { .. })));
    }
}

/// With local APICs alone, the registers of the other controllers are the VMM's.
pub fn split_controllers_leave_the_others_registers(backend: &Backend) {
    let code =
        Asm::new().out_imm(0x20, 0x11).mov_rdi(0xfec0_0000).mov_rax(1).store(4).load(4).out_imm(0x43, 0x34);
    let end = code.here();
    let guest = Guest::new(code.hlt().jmp(end), |cpu| {
        cpu.out8(0x20, 0x11);
        cpu.mmio_write(0xfec0_0000, &[1, 0, 0, 0]);
        cpu.mmio_read(0xfec0_0000, &mut [0; 4]);
        cpu.out8(0x43, 0x34);
        loop {
            cpu.halt();
        }
    });
    let mut tiny = TinyVm::new(backend, VmConfig::split(), guest);
    let mut io = IoLog::new();
    for _ in 0..4 {
        assert_eq!(tiny.vcpu().run(&mut io).unwrap(), Exit::Io);
    }
    let expected = [
        Access::Out(0x20, vec![0x11]),
        Access::Store(0xfec0_0000, vec![1, 0, 0, 0]),
        Access::Load(0xfec0_0000, vec![0xa0, 0xa1, 0xa2, 0xa3]),
        Access::Out(0x43, vec![0x34]),
    ];
    assert_eq!(io.take(), expected);
    no_other(tiny.vcpu());
}

fn event() -> EventFd {
    EventFd::new(EFD_NONBLOCK).unwrap()
}
