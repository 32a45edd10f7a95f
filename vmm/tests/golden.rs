//! A machine that an earlier version wrote down is understood by this one, to the last field: `tests/goldens` has one, made on the
//! fake hypervisor.
//!
//! When this fails a layout of saved state has changed. If the change was wanted, old states must still be read: raise the
//! state's `VERSION`, fill what older ones do not have, keep the golden, and put a new one beside it. (Until the first release
//! the golden may be made anew: `UPDATE_GOLDENS=1 cargo test -p drystone --test golden`.)
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

#[path = "common/served.rs"]
mod served;

use drystone::config::{Config, DiskConfig, Transport};
use drystone::events::Journal;
use drystone::machine::Machine;
use drystone::monitor::{Handle, Request};
use drystone::snapshot::{Identity, Restore, RestoreConfig, RestoreOptions};
use drystone_hypervisor::fake::{FakeHypervisor, GuestCpu};
use drystone_lifecycle::{State, Verb};
use drystone_snapshot::Snapshot;
use served::{save, serving};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const DISK_LEN: u64 = 1 << 20;
/// Registers of the first virtio-mmio device (virtio 1.3, 4.2.2).
const VIRTIO: u64 = 0xf000_0000;

const TRANSPORTS: [Transport; 2] = [Transport::Mmio, Transport::Pci];

fn golden(transport: Transport) -> PathBuf {
    let name =
        format!("../tests/goldens/machine-1-{}", if transport == Transport::Pci { "pci" } else { "mmio" });
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Leaves its mark on every device, so that no state is what a constructor gives.
fn mark(cpu: &mut GuestCpu) {
    for (port, value) in [
        // Serial: line control, scratch. Clock: a byte of its RAM, and the register that stays selected. Keyboard controller: its
        // command byte. PCI: an address.
        (0x3fb, 0x03),
        (0x3ff, 0x5a),
        (0x70, 0x33),
        (0x71, 0x44),
        (0x70, 0x0b),
        (0x64, 0x60),
        (0x60, 0x65),
        (0x505, 0x02),
    ] {
        cpu.out8(port, value);
    }
    let mut write = |offset: u64, value: u32| cpu.mmio_write(VIRTIO + offset, &value.to_le_bytes());
    // Acknowledged, a driver; version 1; the first queue of 8 entries, ready.
    [1, 3].into_iter().for_each(|status| write(0x70, status));
    write(0x24, 1);
    write(0x20, 1);
    write(0x70, 0x0b);
    for (offset, value) in
        [(0x30, 0), (0x38, 8), (0x80, 0x20_0000), (0x90, 0x20_1000), (0xa0, 0x20_2000), (0x44, 1)]
    {
        write(offset, value);
    }
    write(0x70, 0x0f);
}

fn hypervisor(marked: &Arc<AtomicBool>) -> FakeHypervisor {
    let marked = marked.clone();
    FakeHypervisor::new(move |cpu| {
        if !marked.load(Ordering::SeqCst) {
            mark(cpu);
            marked.store(true, Ordering::SeqCst);
        }
        loop {
            cpu.out8(0x80, 0);
        }
    })
}

/// Writes a new golden.
fn update(transport: Transport) {
    std::fs::create_dir_all(golden(transport).parent().unwrap()).unwrap();
    let disk = std::env::temp_dir().join("golden.img");
    File::create(&disk).unwrap().set_len(DISK_LEN).unwrap();
    let config = Config {
        id: Some("golden".into()),
        transport,
        memory: toml("memory = \"4M\""),
        disk: vec![DiskConfig { path: disk.clone(), id: Some("root".into()), ..DiskConfig::default() }],
        ..Config::default()
    };
    let marked = Arc::<AtomicBool>::default();
    let make = |handle: &Handle, journal: &Journal| {
        Machine::build(&config, &hypervisor(&marked), handle, journal).unwrap().0
    };
    serving(make, |handle| {
        while !marked.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        save(handle, &golden(transport));
    });
    std::fs::remove_file(disk).unwrap();
}

fn toml(text: &str) -> drystone::config::MemoryConfig {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("vm.toml"), text).unwrap();
    Config::from_file(&dir.path().join("vm.toml")).unwrap().memory
}

#[test]
fn a_machine_of_an_earlier_version_is_restored_to_the_last_field() {
    for transport in TRANSPORTS {
        if std::env::var_os("UPDATE_GOLDENS").is_some() {
            update(transport);
        }
        is_restored(&golden(transport));
    }
}

fn is_restored(golden: &Path) {
    let place = tempfile::tempdir().unwrap();
    let (disk, again) = (place.path().join("disk"), place.path().join("again"));
    File::create(&disk).unwrap().set_len(DISK_LEN).unwrap();
    let wanted = RestoreConfig {
        dir: golden.into(),
        verify: true,
        // A new identity would be another state.
        options: RestoreOptions { paused: true, identity: Identity::Kept, ..RestoreOptions::default() },
        disks: [("root".to_owned(), disk)].into(),
        ..RestoreConfig::default()
    };
    let restore = Restore::prepare(&wanted).unwrap();
    let marked = Arc::new(AtomicBool::new(true));
    let make = |handle: &Handle, journal: &Journal| {
        Machine::restore(&restore, &hypervisor(&marked), handle, journal).unwrap().0
    };
    serving(make, |handle| {
        // Nothing has run: what is saved is what was restored.
        save(handle, &again);
        let saved = Snapshot::open(&again).unwrap();
        for (name, state) in restore.snapshot.parts() {
            let now = &saved.parts()[name];
            assert_eq!((now.kind(), now.version()), (state.kind(), state.version()), "{name}");
            assert_eq!(now, state, "{name}: a field was lost, or comes back as something else");
        }
        assert_eq!(saved.parts().len(), restore.snapshot.parts().len());
        assert_eq!(handle.request(Request::Life(Verb::Resume)).unwrap(), State::Running);
    });
}
