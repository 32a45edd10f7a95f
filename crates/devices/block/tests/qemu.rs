//! Another program's image, and its locks. In a process of its own: for a moment a child has the files, and so the locks, of every test.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use drystone_block::{BlockConfig, Image, RawDisk};

#[test]
fn images_of_qemu_are_disks_and_its_locks_are_seen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qemu.img");
    let qemu_img = |verb: &str, size: &str| {
        let mut command = std::process::Command::new("qemu-img");
        command.args([verb, "-q", "-f", "raw"]).arg(&path).arg(size).output()
    };
    let created = qemu_img("create", "1M");
    if let Err(e) = created {
        return eprintln!("NOT RUN: there is no qemu-img on this machine: {e}");
    }
    let disk = RawDisk::open(&BlockConfig::new("root", &path)).unwrap();
    assert_eq!(disk.size().unwrap(), 1 << 20);
    let refused = qemu_img("resize", "2M").unwrap();
    let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.contains("lock"), "{refused}");
    drop(disk);
    assert!(qemu_img("resize", "2M").unwrap().status.success());
}
