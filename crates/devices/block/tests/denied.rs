//! A host that does not permit io_uring, as a container's seccomp filter does.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use drystone_block::{Block, BlockConfig, EngineKind, Host};
use drystone_bus::ManualClock;
use drystone_testkit::virtio::Ram;
use std::sync::Arc;

/// From here on io_uring_setup(2) fails with EPERM in this thread.
fn deny_io_uring() {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let mut filter = [
        // The number of the call.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            jf: 1,
            ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_io_uring_setup as u32)
        },
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
            deny_io_uring();
            assert_eq!(open(EngineKind::Auto).unwrap(), EngineKind::Threads);
            let refused = open(EngineKind::IoUring).unwrap_err().to_string();
            let wanted = "disk `root`: cannot use the engine io_uring: Operation not permitted (os error 1)";
            assert_eq!(refused, wanted);
            assert_eq!(open(EngineKind::Auto).unwrap(), EngineKind::Threads, "its lock is free again");
        });
        denied.join().expect("the thread");
    });
}
