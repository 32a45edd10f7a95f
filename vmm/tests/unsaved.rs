//! What a host could not give of a machine's state is said: when it is written down, and wherever it is restored.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[path = "common/served.rs"]
mod served;

use drystone::config::Config;
use drystone::events::{EventKind, Journal};
use drystone::machine::Machine;
use drystone::monitor::Handle;
use drystone::snapshot::{Restore, RestoreConfig};
use drystone_hypervisor::fake::FakeHypervisor;
use served::{save, serving};
use std::cell::OnceCell;

fn host() -> FakeHypervisor {
    FakeHypervisor::new(|cpu| {
        loop {
            cpu.out8(0x80, 0);
        }
    })
}

/// What a machine's events say of it.
fn told(journal: &Journal) -> Vec<Option<String>> {
    let records = journal.history().since(0);
    records.into_iter().filter(|r| r.event == EventKind::SnapshotLacks).map(|r| r.detail).collect()
}

#[test]
fn what_a_snapshot_lacks_is_told() {
    let place = tempfile::tempdir().unwrap();
    let config = Config { cpus: 2.into(), ..Config::default() };
    for lacks in [&["the last bit", "MSR 0x11"][..], &[]] {
        let dir = place.path().join(lacks.len().to_string());
        // Each of two vCPUs lacks the same.
        let expected: Vec<_> =
            (!lacks.is_empty()).then(|| Some("MSR 0x11, the last bit".into())).into_iter().collect();
        let journal = OnceCell::new();
        let make = |handle: &Handle, ours: &Journal| {
            let _ = journal.set(ours.clone());
            let host = host().with_unsaved(lacks.iter().copied());
            Machine::build(&config, &host, handle, ours).unwrap().0
        };
        serving(make, |handle| save(handle, &dir));
        assert_eq!(told(journal.get().unwrap()), expected);

        let restore = Restore::prepare(&RestoreConfig { dir, ..RestoreConfig::default() }).unwrap();
        let journal = OnceCell::new();
        let make = |handle: &Handle, ours: &Journal| {
            let _ = journal.set(ours.clone());
            // This one could.
            Machine::restore(&restore, &host(), handle, ours).unwrap().0
        };
        serving(make, |_| {});
        assert_eq!(told(journal.get().unwrap()), expected);
    }
}
