//! When the host fails in the middle of building a machine, the error says at what, and nothing is left.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone::config::Config;
use drystone::events::Journal;
use drystone::log::Log;
use drystone::machine::Machine;
use drystone::monitor::mailbox;
use drystone_hypervisor::fake::{Call, FakeHypervisor, Faults, Faulty};
use drystone_testkit::fuzz::images;
use std::path::Path;
use std::time::{Duration, Instant};

/// Threads and descriptors of this process.
fn held() -> (usize, usize) {
    let count = |of: &str| std::fs::read_dir(format!("/proc/self/{of}")).unwrap().count();
    (count("task"), count("fd"))
}

/// What is held once nothing changes any more towards `wanted`: a thread that was told to end may need a moment.
fn held_in_the_end(wanted: (usize, usize)) -> (usize, usize) {
    let since = Instant::now();
    while held() != wanted && since.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(1));
    }
    held()
}

/// Builds a machine of two vCPUs, and drops it: the error, if there is one.
fn build(kernel: &Path, faults: &Faults) -> Option<String> {
    let config = Config { kernel: Some(kernel.into()), cpus: 2.into(), ..Config::default() };
    let host = Faulty::new(FakeHypervisor::new(|cpu| cpu.halt()), faults);
    let (handle, _mailbox) = mailbox();
    let journal = Journal::new(Log::none());
    Machine::build(&config, &host, &handle, &journal).err().map(|e| e.to_string())
}

#[test]
fn every_call_may_fail_while_a_machine_is_built() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = dir.path().join("vmlinux");
    std::fs::write(&kernel, images::elf()).unwrap();
    let before = held();
    assert_eq!(build(&kernel, &Faults::new()), None);
    assert_eq!(held_in_the_end(before), before, "something is left of a machine that was built");
    // How often each is called at least.
    let calls = [
        (Call::SupportedCpuid, 1),
        (Call::CreateVm, 1),
        (Call::MapMemory, 1),
        (Call::CreateVcpu, 2),
        (Call::SetCpuid, 2),
        (Call::RegisterIrqfd, 2),
        (Call::DeferWrites, 1),
        (Call::SaveVm, 1),
        (Call::SaveVcpu, 2),
    ];
    for (call, at_least) in calls {
        for nth in 1.. {
            let faults = Faults::new().fail(call, nth);
            let error = build(&kernel, &faults);
            if !faults.used_up() {
                faults.forget();
                assert_eq!(error, None, "no call failed");
                assert!(nth > at_least, "{call:?} is only called {} times", nth - 1);
                break;
            }
            let error = error.unwrap_or_else(|| panic!("{call:?} number {nth} failed, and nobody noticed"));
            assert!(error.contains(&format!("{call:?} number {nth}: a planned fault")), "{error}");
            assert_eq!(error.lines().count(), 1);
            assert_eq!(held_in_the_end(before), before, "something is left after {error}");
        }
    }
}
