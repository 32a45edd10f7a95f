use super::super::fixture;
use super::*;
use std::time::Duration;

/// What a guest can hardly have been running for while a test does.
const HOUR: Duration = Duration::from_secs(3600);

/// The clock of a guest that had run for an hour shows more in a fresh VM, and not how long that has been there.
#[test]
fn the_paravirtual_clock_goes_on_in_a_fresh_vm() {
    let config = VmConfig::bare();
    let Some(old) = fixture::vm(&config) else { return };
    let hour = HOUR.as_nanos() as u64;
    old.fd.set_clock(&kvm_clock_data { clock: hour, ..Default::default() }).unwrap();
    let saved = save(&old).unwrap();
    for clocks in [Clocks::GoOn, Clocks::StandStill] {
        let new = fixture::vm(&config).unwrap();
        restore(&new, &saved, clocks).unwrap();
        let shown = new.fd.get_clock().unwrap().clock;
        assert!((hour..2 * hour).contains(&shown), "{clocks:?}: {shown} ns");
    }
}

/// The host's counter has gone on only if it is the boot in which the state was saved.
#[test]
fn another_boot_of_the_host_is_noticed() {
    let config = VmConfig::bare();
    let Some(vm) = fixture::vm(&config) else { return };
    let saved = save(&vm).unwrap();
    let same_boot = |saved: &Blob| {
        restore(&vm, saved, Clocks::GoOn).unwrap();
        lock(&vm.passage).unwrap().same_boot
    };
    if boot_id().is_empty() {
        eprintln!("NOT RUN: the same boot: this host does not identify its own");
    } else {
        assert!(same_boot(&saved));
    }
    for boot in ["", "8f0c4c57-0000-4000-8000-000000000000"] {
        let mut other: KvmVmState = saved.decode().unwrap();
        other.boot = boot.into();
        assert!(!same_boot(&Blob::encode(&other).unwrap()), "{boot:?}");
    }
}
