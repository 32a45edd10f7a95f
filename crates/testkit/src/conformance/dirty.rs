use super::memory::{PAGE, region};
use crate::guest::{self, DEVICE};
use crate::{Backend, IoLog, RAM, TinyVm};
use drystone_hypervisor::{DirtyTracking, Error, Exit, MapOptions, Vcpu, VmConfig};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The smallest rings that KVM makes on any processor.
const ENTRIES: u32 = 1024;

/// Both ways of tracking.
fn configs() -> [VmConfig; 2] {
    [DirtyTracking::Log, DirtyTracking::Ring { entries: ENTRIES }].map(|dirty| {
        let mut config = VmConfig::bare();
        config.dirty = dirty;
        config
    })
}

fn bit(log: &[u64], page: u64) -> bool {
    log[(page / 64) as usize] >> (page % 64) & 1 != 0
}

/// Pages that the guest wrote to since the last call are in the log. A hypervisor may add pages that the guest used
/// otherwise, such as its code; pages that it never touched are not in it.
pub fn the_dirty_log_has_what_the_guest_wrote(backend: &Backend) {
    for config in configs() {
        let mut tiny = TinyVm::new(backend, config, guest::pokes());
        let pages = [0x90, 0x9f, 0xff];
        for (n, page) in pages.into_iter().enumerate() {
            tiny.vm.dirty_log(0).unwrap();
            tiny.change_regs(|r| (r.rdi, r.rbx) = (page * PAGE + 9, 0x40 + n as u64));
            assert_eq!(tiny.run_through_io(&mut IoLog::new()), Exit::Halted);
            let log = tiny.vm.dirty_log(0).unwrap();
            assert_eq!(log.len() as u64, RAM / PAGE / 64);
            for other in pages {
                assert_eq!(bit(&log, other), other == page, "page {other:#x} after {page:#x}");
            }
            assert_eq!(tiny.read(page * PAGE + 9, 1), [0x40 + n as u8], "and it is written");
        }
        assert!(matches!(tiny.vm.dirty_log(PAGE), Err(Error::Invalid { .. })));
        let _guard = tiny.vm.map_memory(region(DEVICE, PAGE, 0), MapOptions::default()).unwrap();
        assert!(matches!(tiny.vm.dirty_log(DEVICE), Err(Error::Invalid { .. })), "it has no log");
    }
}

/// A guest that writes more pages than a ring holds goes on, and every page is in the log, once.
pub fn more_pages_than_a_ring_holds_are_all_logged(backend: &Backend) {
    let pages = 3 * ENTRIES;
    for config in configs() {
        let mut tiny = TinyVm::new(backend, config, guest::touches_pages(DEVICE, pages));
        let wide = region(DEVICE, u64::from(pages + 64) * PAGE, 0);
        let _guard = tiny.vm.map_memory(wide, MapOptions::log_dirty()).unwrap();
        let mut io = IoLog::new();
        assert_eq!(tiny.run_through_io(&mut io), Exit::Halted);
        assert_eq!(io.written(0x10), vec![1; pages as usize]);
        let log = tiny.vm.dirty_log(DEVICE).unwrap();
        let expected: Vec<u64> = (0..pages / 64).map(|_| u64::MAX).chain([0]).collect();
        assert_eq!(log, expected);
        assert_eq!(tiny.vm.dirty_log(DEVICE).unwrap(), vec![0; log.len()]);
    }
}

/// What was written to memory that is gone is not taken for a write to what is mapped there next.
pub fn the_log_of_memory_goes_with_it(backend: &Backend) {
    for config in configs() {
        let mut tiny = TinyVm::new(backend, config, guest::touches_pages(DEVICE, 10));
        let map = || tiny.vm.map_memory(region(DEVICE, 64 * PAGE, 0), MapOptions::log_dirty()).unwrap();
        let guard = map();
        let vcpu = tiny.vcpus[0].as_mut();
        assert_eq!(crate::run_through_io(vcpu, &mut IoLog::new()), Exit::Halted);
        drop(guard);
        let _guard = map();
        assert_eq!(tiny.vm.dirty_log(DEVICE).unwrap(), [0]);
    }
}

/// Whoever copies the pages of each log after reading it has a copy of all memory in the end, however the guest writes
/// meanwhile.
pub fn copying_what_is_logged_copies_all(backend: &Backend) {
    const PAGES: u32 = 40;
    let starts = [0x9_0000, 0xc_0000];
    for config in configs() {
        let guests = starts.map(|start| guest::scribbles(start, PAGES));
        let mut tiny = TinyVm::with_guests(backend, config, &guests);
        let mut copy = tiny.read(0, RAM as usize);
        let stop = Arc::new(AtomicBool::new(false));
        let kickers: Vec<_> = tiny.vcpus.iter().map(|v| v.kicker()).collect();
        let run = |mut vcpu: Box<dyn Vcpu>| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let exit = vcpu.run(&mut IoLog::new()).unwrap();
                    assert!(matches!(exit, Exit::Io | Exit::Interrupted), "{exit:?}");
                }
            })
        };
        let threads: Vec<_> = tiny.vcpus.drain(..).map(run).collect();
        let mut copy_dirty = |tiny: &TinyVm| {
            let log = tiny.vm.dirty_log(0).unwrap();
            let dirty: Vec<u64> = (0..RAM / PAGE).filter(|&page| bit(&log, page)).collect();
            for page in &dirty {
                let at = (page * PAGE) as usize;
                copy[at..at + PAGE as usize].copy_from_slice(&tiny.read(page * PAGE, PAGE as usize));
            }
            dirty.len()
        };
        // Until both have written all of their pages a few times.
        let rounds = |tiny: &TinyVm| {
            starts.map(|start| tiny.read(start, 4)).map(|b| u32::from_le_bytes(b.try_into().unwrap()))
        };
        while rounds(&tiny).iter().any(|&n| n < 20 * PAGES) {
            copy_dirty(&tiny);
            std::thread::yield_now();
        }
        // What they write after that is for the last log.
        let copied = rounds(&tiny);
        while rounds(&tiny) == copied {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::SeqCst);
        kickers.iter().for_each(|k| k.kick());
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert!(copy_dirty(&tiny) > 0, "they were writing until now");
        assert_eq!(tiny.vm.dirty_log(0).unwrap(), vec![0; (RAM / PAGE / 64) as usize]);
        assert!(copy == tiny.read(0, RAM as usize), "a write is in no log");
    }
}

/// Rings of sizes that make no sense are refused when the VM is made.
pub fn rings_have_sensible_sizes(backend: &Backend) {
    let host = backend.host(&[]);
    let most = host.capabilities().dirty_ring_entries;
    assert!(most >= ENTRIES);
    for entries in [0, 1, 3, 1000, ENTRIES + 1, most.saturating_mul(2)] {
        let mut config = VmConfig::bare();
        config.dirty = DirtyTracking::Ring { entries };
        assert!(matches!(host.create_vm(&config).err(), Some(Error::Invalid { .. })), "{entries}");
    }
}
