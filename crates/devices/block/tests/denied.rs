//! A host that does not permit io_uring, as a container's seccomp filter does, or has no memory for it just now.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use drystone_block::{Block, BlockConfig, EngineKind, Host};
use drystone_bus::ManualClock;
use drystone_runner::{Doorbells, Runner};
use drystone_testkit::block::{DiskMachine, FEATURES, IN, engine_or_threads};
use drystone_testkit::virtio::{DriverRing, Edges, MmioPort, Ram, WRITE, bring_up, ram};
use drystone_virtio::{Doorbell, Mmio, MmioConfig};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress};

/// From here on a system call fails with `error` in this thread.
fn deny(call: libc::c_long, error: i32) {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let refuse = libc::SECCOMP_RET_ERRNO | error as u32;
    let mut filter = [
        // The number of the call.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter { jf: 1, ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call as u32) },
        statement(libc::BPF_RET | libc::BPF_K, refuse),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the first takes numbers; the second reads the program, which lives across the call, and changes what this thread may
    // call and nothing else.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}

#[test]
fn threads_take_its_place_unless_it_was_asked_for() {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let open = |engine| {
        let config = BlockConfig { engine, queues: 3, ..BlockConfig::new("root", image.path()) };
        let host =
            Host { clock: Arc::new(ManualClock::default()), on_failure: Arc::new(|_| ()), group: None };
        Block::<Ram>::open(&config, host).map(|(_, handle)| handle.engine())
    };
    std::thread::scope(|scope| {
        let denied = scope.spawn(|| {
            deny(libc::SYS_io_uring_setup, libc::EPERM);
            assert_eq!(open(EngineKind::Auto).unwrap(), EngineKind::Threads);
            let refused = open(EngineKind::IoUring).unwrap_err().to_string();
            let wanted = "disk `root`: cannot use the engine io_uring: Operation not permitted (os error 1)";
            assert_eq!(refused, wanted);
            assert_eq!(open(EngineKind::Auto).unwrap(), EngineKind::Threads, "its lock is free again");
        });
        denied.join().expect("the thread");
    });
}

/// Nothing else is with the host, and the guest asks for nothing more: so nobody but the worker itself can come back to it.
#[test]
fn what_the_host_has_no_memory_for_is_tried_again() {
    if engine_or_threads(EngineKind::IoUring) != EngineKind::IoUring {
        return;
    }
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let config = BlockConfig { engine: EngineKind::IoUring, ..BlockConfig::new("root", image.path()) };
    let host = Host { clock: Arc::new(ManualClock::default()), on_failure: Arc::new(|_| ()), group: None };
    let (device, _) = Block::<Ram>::open(&config, host).unwrap();
    let (memory, doorbells) = (ram(0x4_0000), Arc::new(Doorbells::new(1).unwrap()));
    // The events of a doorbell that nobody hears are the loop's.
    let place = MmioConfig { base: 0xd000_0000, gsi: 5, index: 0, shared_memory: vec![] };
    let host = drystone_virtio::Host::new(doorbells.clone() as Arc<dyn Doorbell>);
    let mmio = Mmio::new(place, Box::new(device), memory.clone(), Arc::new(Edges::default()), host).unwrap();
    let port = MmioPort(Arc::new(mmio));
    let mut ring = DriverRing::new(&memory, 0x1_0000, 16, false);
    bring_up(&port, &[&ring], FEATURES);
    memory.write_slice(&DiskMachine::head(IN, 0, &[]), GuestAddress(0x1000)).unwrap();
    ring.add(&[(0x1000, 16, 0), (0x2000, 512, WRITE), (0x3000, 1, WRITE)], false).unwrap();
    // Served by a thread for which the host has no memory, which then is gone.
    let core = port.0.core().clone();
    let served = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            deny(libc::SYS_io_uring_enter, libc::EAGAIN);
            let _ = core.kick(0);
            served.store(true, Ordering::SeqCst);
        });
    });
    assert!(served.load(Ordering::SeqCst) && ring.take().is_none(), "it could not be begun");
    // Others run on a loop that hears no doorbell of it.
    let runner = Runner::new("later", NonZeroUsize::MIN).unwrap();
    let _ = doorbells.event(0).unwrap().read();
    let _attached = runner.attach(&core, &doorbells).unwrap();
    let begun = Instant::now();
    while ring.take().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(60), "nobody came back to it");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0x3000)).unwrap(), 0);
}
