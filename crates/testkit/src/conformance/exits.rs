use crate::guest::{self, DEVICE, PATTERN};
use crate::{Access, Backend, IoLog, TinyVm};
use drystone_hypervisor::{Exit, VmConfig};

fn low(width: usize) -> Vec<u8> {
    PATTERN.to_le_bytes()[..width].to_vec()
}

/// The next `width` bytes that an [`IoLog`] answers.
fn answer(next: &mut u8, width: usize) -> Vec<u8> {
    (0..width).map(|_| std::mem::replace(next, *next + 1)).collect()
}

/// IN and OUT of 1, 2 and 4 bytes.
pub fn port_accesses_of_each_width(backend: &Backend) {
    let mut tiny = TinyVm::new(backend, VmConfig::bare(), guest::port_io());
    let mut io = IoLog::new();
    let mut exits = 0;
    while tiny.vcpu().run(&mut io).unwrap() == Exit::Io {
        exits += 1;
    }
    let mut expected: Vec<_> = [1, 2, 4].map(|w| Access::Out(0x10, low(w))).into();
    let mut next = 0xa0;
    for width in [1, 2, 4] {
        let data = answer(&mut next, width);
        expected.extend([Access::In(0x28, data.clone()), Access::Out(0x29, data)]);
    }
    assert_eq!(io.take(), expected);
    assert_eq!(exits, 9, "one exit an access");
}

/// INS and OUTS of each width arrive item by item, however many a back end is given at once.
pub fn string_accesses_are_many_accesses(backend: &Backend) {
    let mut tiny = TinyVm::new(backend, VmConfig::bare(), guest::string_io());
    let mut io = IoLog::new();
    assert_eq!(tiny.run_through_io(&mut io), Exit::Halted);
    let mut expected = Vec::new();
    for width in [1, 2, 4] {
        expected.extend(low(8).chunks(width).map(|item| Access::Out(0x30, item.to_vec())));
    }
    let mut next = 0xa0;
    for width in [1, 2, 4] {
        let data = answer(&mut next, 8);
        expected.extend(data.chunks(width).map(|item| Access::In(0x31, item.to_vec())));
        expected.extend(data.iter().map(|byte| Access::Out(0x30, vec![*byte])));
    }
    assert_eq!(io.take(), expected);
}

/// Loads and stores of 1, 2, 4 and 8 bytes where nothing is mapped.
pub fn device_memory_of_each_width(backend: &Backend) {
    let mut tiny = TinyVm::new(backend, VmConfig::bare(), guest::mmio());
    let mut io = IoLog::new();
    assert_eq!(tiny.run_through_io(&mut io), Exit::Halted);
    let mut expected: Vec<_> = [1, 2, 4, 8].map(|w| Access::Store(DEVICE, low(w))).into();
    let mut next = 0xa0;
    for width in [1, 2, 4, 8] {
        let data = answer(&mut next, width);
        expected.extend([Access::Load(DEVICE, data.clone()), Access::Store(DEVICE + 0x100, data)]);
    }
    assert_eq!(io.take(), expected);
}

/// HLT is an exit, and the next run goes on behind it.
pub fn halt_without_an_interrupt_controller_exits(backend: &Backend) {
    let mut tiny = TinyVm::new(backend, VmConfig::bare(), guest::halts());
    let mut io = IoLog::new();
    assert_eq!(tiny.vcpu().run(&mut io).unwrap(), Exit::Halted);
    assert_eq!(io.take(), []);
    assert_eq!(tiny.vcpu().run(&mut io).unwrap(), Exit::Io);
    assert_eq!(io.take(), [Access::Out(0x10, vec![1])]);
    for _ in 0..3 {
        assert_eq!(tiny.vcpu().run(&mut io).unwrap(), Exit::Halted);
    }
}

/// With interrupt controllers HLT waits; only a kick ends that (interrupts are off), and the guest is still halted.
pub fn halt_with_one_waits(backend: &Backend) {
    let mut tiny = TinyVm::new(backend, VmConfig::default(), guest::halts());
    let mut io = IoLog::new();
    for _ in 0..5 {
        let kicker = tiny.vcpu().kicker();
        let thread = std::thread::spawn(move || {
            // Most likely the guest is halted by then; the outcome is the same if not.
            std::thread::sleep(std::time::Duration::from_millis(5));
            kicker.kick();
        });
        assert_eq!(tiny.vcpu().run(&mut io).unwrap(), Exit::Interrupted);
        thread.join().unwrap();
        assert_eq!(io.take(), [], "still halted");
    }
}

/// A fault without handlers ends the guest.
pub fn a_triple_fault_is_a_shutdown(backend: &Backend) {
    for config in super::configs() {
        let mut tiny = TinyVm::new(backend, config.clone(), guest::triple_fault());
        assert_eq!(tiny.vcpu().run(&mut IoLog::new()).unwrap(), Exit::Shutdown);
    }
}
