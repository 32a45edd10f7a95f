//! Stock Debian kernels boot to their init, see the machine as it is, and power it off.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_lab::Version;
use drystone_tests::{Bench, report};

/// What these kernels say at warning level or above to a machine like this one under any VMM; anything else is new. This one
/// is said on this processor also by QEMU's q35 machine.
const KNOWN_WARNINGS: &[&str] = &["amd_pstate: the _CPC object is not present in SBIOS or ACPI disabled"];

/// Says how late a timer was, which is the host's doing: this machine may be an emulated one, and busy.
const LATE: &str = "hrtimer: interrupt took ";

fn boots(version: Version, image: &str, cpus: u32) {
    let bench = Bench::new();
    let script = format!(
        "drystone run --kernel {image} --initrd guest.cpio --cpus {cpus} --memory 256M --cmdline quiet < /dev/null"
    );
    let outcome = bench.run(bench.job(version, &script));
    assert_eq!(outcome.code, 0, "power-off is exit code 0");
    let text = outcome.text();
    assert!(report(&text, "release").unwrap().starts_with(&format!("{}.", version.name())));
    assert_eq!(report(&text, "cpus"), Some(cpus.to_string().as_str()));
    let memory: u64 = report(&text, "memory_kib").unwrap().parse().unwrap();
    // The kernel counts what it has not reserved for itself.
    assert!((200 << 10..256 << 10).contains(&memory), "{memory} KiB of 262144");
    assert_eq!(report(&text, "ttyS0"), Some("4"), "PORT_16550A");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let date: u64 = report(&text, "date").unwrap().parse().unwrap();
    assert!(now.abs_diff(date) < 3600, "the guest's clock says {date}, the host's {now}");
    let warnings: Vec<_> = text.lines().filter_map(|l| l.trim_end().strip_prefix("warning ")).collect();
    let known = |w: &str| KNOWN_WARNINGS.contains(&w) || w.starts_with(LATE);
    let new: Vec<_> = warnings.iter().filter(|w| !known(w)).collect();
    assert!(new.is_empty(), "new kernel warnings: {new:#?}");
}

#[test]
fn debian_6_1_as_bzimage() {
    boots(Version::V6_1, "bzImage", 1);
}

#[test]
fn debian_6_1_as_elf() {
    boots(Version::V6_1, "vmlinux", 1);
}

#[test]
fn debian_6_12_as_bzimage_on_two_cpus() {
    boots(Version::V6_12, "bzImage", 2);
}

#[test]
fn debian_6_12_as_elf() {
    boots(Version::V6_12, "vmlinux", 1);
}

#[test]
fn the_full_matrix_of_kernels_images_and_cpus() {
    if std::env::var_os("DRYSTONE_FULL").is_none() {
        eprintln!("NOT RUN: the full matrix takes minutes; DRYSTONE_FULL=1 runs it");
        return;
    }
    for version in [Version::V6_1, Version::V6_12] {
        for image in ["bzImage", "vmlinux"] {
            for cpus in [1, 2, 4] {
                boots(version, image, cpus);
            }
        }
    }
}
