use crate::guest::{self, DEVICE};
use crate::{Access, Backend, IoLog, TinyVm};
use drystone_hypervisor::{Error, Exit, MapOptions, VmConfig};
use drystone_memory::{Backed, GuestRam, Layout, RamConfig, RamRegion};
use std::sync::Arc;
use vm_memory::{GuestAddress, MmapRegion};

pub(super) const PAGE: u64 = 4096;

/// A range of its own, at any address, filled with `byte`.
pub(super) fn region(base: u64, len: u64, byte: u8) -> Arc<dyn Backed> {
    let mapping = MmapRegion::new(len as usize).unwrap();
    let region = RamRegion::new(mapping, GuestAddress(base)).unwrap();
    assert!(region.write_at(0, &vec![byte; len as usize]));
    Arc::new(region)
}

/// Runs the guest of [`guest::peeks`] once: what it read from `addr`, and whether it had to leave RAM for it.
fn peek(tiny: &mut TinyVm, addr: u64) -> (u8, bool) {
    let mut io = IoLog::new();
    tiny.change_regs(|r| r.rdi = addr);
    assert_eq!(tiny.run_through_io(&mut io), Exit::Halted);
    let byte = io.written(0x10)[0];
    (byte, io.take().len() > 1)
}

/// Memory is there from the mapping to the drop of its guard, and what holds it is let go then.
pub fn memory_comes_and_goes(backend: &Backend) {
    let mut tiny = TinyVm::new(backend, VmConfig::bare(), guest::peeks());
    assert!(peek(&mut tiny, DEVICE).1, "nothing is mapped");
    for byte in [0x11, 0x22, 0x33] {
        let held = region(DEVICE, 2 * PAGE, byte);
        let guard = tiny.vm.map_memory(held.clone(), MapOptions::default()).unwrap();
        assert_eq!(peek(&mut tiny, DEVICE + PAGE), (byte, false));
        drop(guard);
        assert_eq!(Arc::strong_count(&held), 1, "the VM lets it go");
        assert!(peek(&mut tiny, DEVICE + PAGE).1, "it is gone");
    }
}

/// Overlaps of every kind.
pub fn ranges_that_make_no_sense_are_refused(backend: &Backend) {
    let tiny = TinyVm::new(backend, VmConfig::bare(), guest::peeks());
    let _kept = tiny.vm.map_memory(region(DEVICE, 4 * PAGE, 0), MapOptions::default()).unwrap();
    let ranges = [(0, 4 * PAGE), (PAGE, PAGE), (3 * PAGE, 2 * PAGE), (2 * PAGE, PAGE)];
    for (offset, len) in ranges {
        let refused = tiny.vm.map_memory(region(DEVICE + offset, len, 0), MapOptions::default());
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{offset:#x}");
    }
    let before = region(DEVICE - PAGE, 2 * PAGE, 0);
    assert!(matches!(tiny.vm.map_memory(before, MapOptions::default()), Err(Error::Invalid { .. })));
    for (base, len) in [(DEVICE - PAGE, PAGE), (DEVICE + 4 * PAGE, PAGE)] {
        drop(tiny.vm.map_memory(region(base, len, 0), MapOptions::default()).expect("it only touches"));
    }
    let odd = region(0x2000_0000 + 512, PAGE, 0);
    assert!(matches!(tiny.vm.map_memory(odd, MapOptions::default()), Err(Error::Invalid { .. })));
}

/// Mapping and unmapping in any order never runs out of slots or mixes them up.
pub fn a_slot_is_free_again(backend: &Backend) {
    let mut tiny = TinyVm::new(backend, VmConfig::bare(), guest::peeks());
    let at = |n: u64| DEVICE + n * PAGE;
    let map = |tiny: &TinyVm, n: u64| {
        tiny.vm.map_memory(region(at(n), PAGE, n as u8), MapOptions::default()).unwrap()
    };
    let mut guards: Vec<_> = (0..8).map(|n| Some(map(&tiny, n))).collect();
    for n in [0, 7, 3, 4] {
        guards[n as usize] = None;
        assert!(peek(&mut tiny, at(n)).1);
    }
    for n in [3, 0, 4, 7] {
        guards[n as usize] = Some(map(&tiny, n));
    }
    for n in 0..8 {
        assert_eq!(peek(&mut tiny, at(n)), (n as u8, false));
    }
}

/// Loads from read-only memory read it; stores leave the guest and change nothing.
pub fn read_only_memory_is_read_and_not_written(backend: &Backend) {
    let mut tiny = TinyVm::new(backend, VmConfig::bare(), guest::peeks());
    let rom = region(DEVICE, PAGE, 0x5a);
    let _guard = tiny.vm.map_memory(rom.clone(), MapOptions::read_only()).unwrap();
    assert_eq!(peek(&mut tiny, DEVICE + 5), (0x5a, false));

    let mut tiny = TinyVm::new(backend, VmConfig::bare(), guest::pokes());
    let _guard = tiny.vm.map_memory(rom.clone(), MapOptions::read_only()).unwrap();
    tiny.change_regs(|r| (r.rdi, r.rbx) = (DEVICE + 5, 0x77));
    let mut io = IoLog::new();
    assert_eq!(tiny.run_through_io(&mut io), Exit::Halted);
    assert_eq!(io.take(), [Access::Store(DEVICE + 5, vec![0x77])]);
    let mut byte = [0];
    assert!(rom.read_at(5, &mut byte));
    assert_eq!(byte, [0x5a]);
}

/// Whoever holds a guard keeps what it stands for.
pub fn a_guard_outlives_its_vm(backend: &Backend) {
    let layout = Layout::new(16 * PAGE, 36).unwrap();
    let held: Arc<dyn Backed> = GuestRam::new(&layout, &RamConfig::default()).unwrap().regions().remove(0);
    let mut tiny = TinyVm::new(backend, VmConfig::bare(), guest::peeks());
    tiny.mapped = None;
    let guard = tiny.vm.map_memory(held.clone(), MapOptions::default()).unwrap();
    drop(tiny);
    assert_eq!(Arc::strong_count(&held), 2);
    drop(guard);
    assert_eq!(Arc::strong_count(&held), 1);
}
