use crate::guest::{self, ADDRESS_PORT, DATA, DEVICE, SELECTED_PORT};
use crate::{Access, Backend, IoLog, TinyVm};
use drystone_hypervisor::{Error, Exit, IoHandler, VmConfig};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

/// A host that cannot defer says so.
fn defers(backend: &Backend) -> bool {
    let can = backend.host(&[guest::spins()]).capabilities().deferred_writes;
    if !can {
        let tiny = TinyVm::new(backend, VmConfig::bare(), guest::spins());
        assert!(matches!(tiny.vm.defer_writes(ADDRESS_PORT, 4), Err(Error::Missing { .. })));
        eprintln!("NOT RUN: this host cannot let writes to ports wait");
    }
    can
}

/// How often the guest was left for an access until it halted.
fn exits(tiny: &mut TinyVm, io: &mut IoLog) -> usize {
    let mut exits = 0;
    while tiny.vcpu().run(io).unwrap() == Exit::Io {
        exits += 1;
    }
    exits
}

/// They are handed over where they would have been, and are no exits; other ports' are, and theirs once the guard is gone.
pub fn deferred_writes_keep_their_order_and_do_not_exit(backend: &Backend) {
    if !defers(backend) {
        return;
    }
    let writes = [(1, 1), (2, 2), (3, 4), (4, 8), (5, 4)];
    let mut expected = Vec::new();
    for (value, width) in writes {
        let data = u64::to_le_bytes(value)[..width].to_vec();
        expected.extend((width < 8).then(|| Access::Out(0x70, data.clone())));
        expected.push(Access::Store(DEVICE, data));
    }
    for (port, len, deferred) in [(0x70, 4, 4), (0x6f, 9, 4), (0x70, 2, 2), (0x71, 4, 0), (0x6c, 4, 0)] {
        let mut tiny = TinyVm::new(backend, VmConfig::bare(), guest::writes(&writes));
        let _waits = tiny.vm.defer_writes(port, len).unwrap();
        let mut io = IoLog::new();
        assert_eq!(exits(&mut tiny, &mut io), expected.len() - deferred, "{len} from {port:#x}");
        assert_eq!(io.take(), expected);
    }
    let mut tiny = TinyVm::new(backend, VmConfig::bare(), guest::writes(&writes));
    drop(tiny.vm.defer_writes(0x70, 4).unwrap());
    let mut io = IoLog::new();
    assert_eq!((exits(&mut tiny, &mut io), io.take()), (expected.len(), expected));
}

/// More of them than have room: some exit, none is lost, and all are there when the guest has halted.
pub fn deferred_writes_that_find_no_room_exit(backend: &Backend) {
    if !defers(backend) {
        return;
    }
    const COUNT: u32 = 1000;
    let mut tiny = TinyVm::new(backend, VmConfig::bare(), guest::counts_down(COUNT));
    let _waits = tiny.vm.defer_writes(ADDRESS_PORT, 4).unwrap();
    let mut io = IoLog::new();
    let exits = exits(&mut tiny, &mut io);
    assert!((1..100).contains(&exits), "{exits}");
    let all = (1..=COUNT).rev().flat_map(u32::to_le_bytes).collect::<Vec<_>>();
    assert_eq!(io.written(ADDRESS_PORT), all);
}

/// A vCPU that was stopped has handed over what it wrote: nothing waits in a machine that is paused.
pub fn deferred_writes_are_there_when_a_vcpu_is_interrupted(backend: &Backend) {
    if !defers(backend) {
        return;
    }
    let mut tiny = TinyVm::new(backend, VmConfig::bare(), guest::writes_and_spins());
    let _waits = tiny.vm.defer_writes(ADDRESS_PORT, 4).unwrap();
    let (ram, kicker) = (tiny.ram(), tiny.vcpu().kicker());
    let thread = std::thread::spawn(move || {
        while ram.memory().load::<u8>(GuestAddress(DATA), Ordering::SeqCst).unwrap() == 0 {
            std::thread::yield_now();
        }
        kicker.kick();
    });
    let mut io = IoLog::new();
    assert_eq!(tiny.vcpu().run(&mut io).unwrap(), Exit::Interrupted);
    thread.join().unwrap();
    assert_eq!(io.take(), [Access::Out(ADDRESS_PORT, vec![1, 0, 0, 0])]);
}

/// The registers of a device that two vCPUs share.
#[derive(Default)]
struct Registers {
    address: u8,
    /// Who used the other register, and what was selected then.
    used: Vec<(u8, u8)>,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Registers>>);

impl IoHandler for Shared {
    fn pio_read(&mut self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn pio_write(&mut self, port: u16, data: &[u8]) {
        // Whoever does not wait for another's hand-over is now ahead of it.
        std::thread::yield_now();
        let mut registers = self.0.lock().unwrap();
        match port {
            ADDRESS_PORT => registers.address = data[0],
            SELECTED_PORT => {
                let selected = registers.address;
                registers.used.push((data[0], selected));
            }
            _ => {}
        }
    }
    fn mmio_read(&mut self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&mut self, _: u64, _: &[u8]) {}
}

/// What a vCPU selects is selected when it uses it, whichever vCPU hands that over.
pub fn deferred_writes_of_two_vcpus_come_before_their_next_access(backend: &Backend) {
    if !defers(backend) {
        return;
    }
    const ROUNDS: u32 = 200;
    let guests = [0, 1].map(|id| guest::selects_by_turns(id, ROUNDS));
    let mut tiny = TinyVm::with_guests(backend, VmConfig::bare(), &guests);
    let _waits = tiny.vm.defer_writes(ADDRESS_PORT, 4).unwrap();
    let shared = Shared::default();
    let run = |mut vcpu: Box<dyn drystone_hypervisor::Vcpu>| {
        let mut io = shared.clone();
        std::thread::spawn(move || while vcpu.run(&mut io).unwrap() == Exit::Io {})
    };
    let threads: Vec<_> = tiny.vcpus.drain(..).map(run).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let expected: Vec<_> = (0..ROUNDS).flat_map(|_| [(0, 0), (1, 1)]).collect();
    assert_eq!(shared.0.lock().unwrap().used, expected);
}

/// There are 65536 ports.
pub fn only_ports_that_exist_can_be_deferred(backend: &Backend) {
    if !defers(backend) {
        return;
    }
    let tiny = TinyVm::new(backend, VmConfig::bare(), guest::spins());
    let defer = |port, len| tiny.vm.defer_writes(port, len);
    assert!(matches!(defer(0x70, 0), Err(Error::Invalid { .. })));
    assert!(matches!(defer(0xffff, 2), Err(Error::Invalid { .. })));
    drop(defer(0xffff, 1).unwrap());
}
