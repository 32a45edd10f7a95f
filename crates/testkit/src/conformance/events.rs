use crate::guest::{self, DEVICE, INTERRUPT_PORT, READY_PORT};
use crate::{Access, Backend, IoLog, TinyVm};
use drystone_hypervisor::{Clocks, Datamatch, Error, Exit, IoAddress, VmConfig};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

fn event() -> EventFd {
    EventFd::new(EFD_NONBLOCK).unwrap()
}

/// Runs until the guest of [`guest::interrupts`] reports an interrupt.
fn next_interrupt(tiny: &mut TinyVm) -> u8 {
    let mut io = IoLog::new();
    assert_eq!(tiny.vcpu().run(&mut io).unwrap(), Exit::Io);
    match io.take().as_slice() {
        [Access::Out(INTERRUPT_PORT, data)] => data[0],
        other => panic!("{other:?}"),
    }
}

/// A VM whose guest waits for interrupts.
fn ready(backend: &Backend) -> TinyVm {
    let mut tiny = TinyVm::new(backend, VmConfig::default(), guest::interrupts());
    let mut io = IoLog::new();
    assert_eq!(tiny.vcpu().run(&mut io).unwrap(), Exit::Io);
    assert_eq!(io.take(), [Access::Out(READY_PORT, vec![0])]);
    tiny
}

/// An eventfd, written before or while the guest is halted, and a line that rises are interrupts; an eventfd whose guard
/// was dropped is not.
pub fn events_and_lines_reach_a_halted_guest(backend: &Backend) {
    let mut tiny = ready(backend);
    let (five, six) = (event(), event());
    let guard = tiny.vm.register_irqfd(&five, 5).unwrap();
    let _six = tiny.vm.register_irqfd(&six, 6).unwrap();
    five.write(1).unwrap();
    assert_eq!(next_interrupt(&mut tiny), 5);
    for _ in 0..10 {
        let six = six.try_clone().unwrap();
        let thread = std::thread::spawn(move || six.write(1).unwrap());
        assert_eq!(next_interrupt(&mut tiny), 6);
        thread.join().unwrap();
    }
    for _ in 0..3 {
        tiny.vm.set_irq_line(7, true).unwrap();
        tiny.vm.set_irq_line(7, false).unwrap();
        assert_eq!(next_interrupt(&mut tiny), 7);
    }
    drop(guard);
    five.write(1).unwrap();
    six.write(1).unwrap();
    assert_eq!(next_interrupt(&mut tiny), 6);
    tiny.vcpu().kicker().kick();
    assert_eq!(tiny.vcpu().run(&mut IoLog::new()).unwrap(), Exit::Interrupted, "no other is left");
}

/// An interrupt that waits in the controller goes with the VM's state, and comes once.
pub fn interrupts_survive_a_save(backend: &Backend) {
    let mut first = ready(backend);
    first.vcpu().kicker().kick();
    assert_eq!(first.vcpu().run(&mut IoLog::new()).unwrap(), Exit::Interrupted);
    first.vm.set_irq_line(5, true).unwrap();
    let (vm, vcpu) = (first.vm.save().unwrap(), first.vcpu().save().unwrap());

    let mut second = TinyVm::new(backend, VmConfig::default(), guest::interrupts());
    second.vm.restore(&vm, Clocks::GoOn).unwrap();
    second.vcpu().restore(&vcpu).unwrap();
    let mut io = IoLog::new();
    // A guest that is a closure starts anew, and says once more that it is ready.
    while io.written(INTERRUPT_PORT).is_empty() {
        assert_eq!(second.vcpu().run(&mut io).unwrap(), Exit::Io);
    }
    assert_eq!(io.written(INTERRUPT_PORT), [5]);
    second.vcpu().kicker().kick();
    assert_eq!(second.vcpu().run(&mut io).unwrap(), Exit::Interrupted);
    assert_eq!(io.written(INTERRUPT_PORT), [5]);
}

/// Without interrupt controllers there are no interrupts, and no timer either.
pub fn interrupts_need_a_controller(backend: &Backend) {
    let tiny = TinyVm::new(backend, VmConfig::bare(), guest::spins());
    assert!(matches!(tiny.vm.set_irq_line(4, true), Err(Error::Call { .. })));
    assert!(matches!(tiny.vm.register_irqfd(&event(), 4), Err(Error::Call { .. })));
}

/// A write that matches rings and does not exit; any other exits and does not ring.
pub fn doorbells_ring_for_what_they_match(backend: &Backend) {
    let writes = [(1, 1), (1, 2), (2, 2), (0x1_0001, 4), (3, 4), (7, 8)];
    let two_bytes = Datamatch { value: 1, len: 2 };
    let four_bytes = Datamatch { value: 3, len: 4 };
    let eight_bytes = Datamatch { value: 7, len: 8 };
    let addresses = [IoAddress::Pio(0x70), IoAddress::Mmio(DEVICE)];
    let of = |address: IoAddress, a: &Access| match (address, a) {
        (IoAddress::Pio(_), Access::Out(_, data)) | (IoAddress::Mmio(_), Access::Store(_, data)) => {
            Some(data.clone())
        }
        _ => None,
    };
    for address in addresses {
        let mut tiny = TinyVm::new(backend, VmConfig::bare(), guest::writes(&writes));
        let (two, four, eight, gone) = (event(), event(), event(), event());
        let register = |event, datamatch| tiny.vm.register_ioeventfd(event, address, Some(datamatch));
        let _two = register(&two, two_bytes).unwrap();
        let _four = register(&four, four_bytes).unwrap();
        let is_memory = matches!(address, IoAddress::Mmio(_));
        let _eight = is_memory.then(|| register(&eight, eight_bytes).unwrap());
        drop(register(&gone, Datamatch { value: 2, len: 2 }).unwrap());
        let mut io = IoLog::new();
        assert_eq!(tiny.run_through_io(&mut io), Exit::Halted);
        let seen: Vec<_> = io.take().iter().filter_map(|a| of(address, a)).collect();
        assert_eq!(seen, [vec![1], vec![2, 0], vec![1, 0, 1, 0]], "{address:?}");
        assert_eq!((two.read().ok(), four.read().ok(), gone.read().ok()), (Some(1), Some(1), None));
        assert_eq!(eight.read().ok(), is_memory.then_some(1));
    }
    for address in addresses {
        let mut tiny = TinyVm::new(backend, VmConfig::bare(), guest::writes(&writes));
        let any = event();
        let _any = tiny.vm.register_ioeventfd(&any, address, None).unwrap();
        let mut io = IoLog::new();
        assert_eq!(tiny.run_through_io(&mut io), Exit::Halted);
        assert_eq!(io.take().iter().filter_map(|a| of(address, a)).count(), 0);
        let expected = if matches!(address, IoAddress::Pio(_)) { 5 } else { 6 };
        assert_eq!(any.read().unwrap(), expected, "{address:?}");
    }
}

/// Two doorbells for the same write are refused; the same address with other values is not.
pub fn doorbells_do_not_collide(backend: &Backend) {
    let tiny = TinyVm::new(backend, VmConfig::bare(), guest::spins());
    let address = IoAddress::Mmio(DEVICE);
    let bell = |datamatch| tiny.vm.register_ioeventfd(&event(), address, datamatch);
    let value = |value, len| Some(Datamatch { value, len });
    let first = bell(value(1, 2)).unwrap();
    assert!(matches!(bell(value(1, 2)), Err(Error::Call { .. })));
    assert!(matches!(bell(None), Err(Error::Call { .. })), "any write is also this one");
    drop(bell(value(2, 2)).unwrap());
    drop(bell(value(1, 4)).unwrap());
    drop(first);
    let any = bell(None).unwrap();
    assert!(matches!(bell(value(1, 2)), Err(Error::Call { .. })));
    drop(any);
    assert!(matches!(bell(value(1, 3)), Err(Error::Invalid { .. })), "no write has 3 bytes");
    assert!(matches!(bell(value(0x100, 1)), Err(Error::Invalid { .. })), "no byte has that value");
}
