//! Stock Debian kernels boot to their init, see the machine as it is, and power it off.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_lab::Version;
use drystone_tests::{Bench, PATIENT, full, is_known_warning, is_lateness, report};
use std::collections::BTreeSet;

/// Boots a kernel and returns what its guest said.
fn boots(bench: &Bench, version: Version, image: &str, cpus: u32) -> String {
    let script = format!(
        "drystone run --kernel {image} --initrd guest.cpio --cpus {cpus} --memory 256M --cmdline 'quiet {PATIENT}' \
         < /dev/null"
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
    assert_eq!(report(&text, "selftests_off"), Some("1"), "ciphers are not tried out");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let date: u64 = report(&text, "date").unwrap().parse().unwrap();
    assert!(now.abs_diff(date) < 3600, "the guest's clock says {date}, the host's {now}");
    let new: Vec<_> = said(&text, "warning").filter(|w| !is_known_warning(w)).collect();
    assert!(new.is_empty(), "new kernel warnings: {new:#?}");
    let complaints: Vec<_> = said(&text, "complaint").collect();
    assert!(complaints.is_empty(), "the kernel finds fault with the tables: {complaints:#?}");
    text
}

fn said<'a>(text: &'a str, what: &'static str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |l| l.trim_end().strip_prefix(what)?.strip_prefix(' '))
}

/// What the guest's kernel warned of here, it also warns of on QEMU's machine.
fn warns_no_more_than_on_qemu(bench: &Bench, version: Version, text: &str, cpus: u32) {
    let other = bench.on_qemu(version, &format!("console=ttyS0 quiet {PATIENT}"), cpus);
    assert_eq!(report(&other, "release"), report(text, "release"), "another kernel");
    assert!(other.lines().any(|l| l.trim_end() == "report done"));
    let theirs: BTreeSet<_> = said(&other, "warning").map(without_numbers).collect();
    let ours = said(text, "warning").filter(|w| !is_lateness(w));
    let new: Vec<_> = ours.filter(|w| !theirs.contains(&without_numbers(w))).collect();
    assert!(new.is_empty(), "not said on QEMU: {new:#?}; said there: {theirs:#?}");
}

/// Every number, decimal or hexadecimal, becomes a `#`.
fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    for word in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let number = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        if number.starts_with(|c: char| c.is_ascii_digit()) {
            out.push('#');
            out.push_str(&word[number.len()..]);
        } else {
            out.push_str(word);
        }
    }
    out
}

#[test]
fn numbers_do_not_tell_two_warnings_apart() {
    let warning = |at| format!("hpet0: lost {at} interrupts in 32-bit mode");
    assert_eq!(without_numbers(&warning("0xfe")), without_numbers(&warning("1200")));
    assert_eq!(without_numbers("a 12, b2 0x3f\n"), "a #, b2 #\n");
    assert_ne!(without_numbers("PCI: Fatal: 1"), without_numbers("PCI: System 1"));
}

#[test]
fn debian_6_1_as_bzimage() {
    boots(&Bench::new(), Version::V6_1, "bzImage", 1);
}

#[test]
fn debian_6_1_as_elf() {
    boots(&Bench::new(), Version::V6_1, "vmlinux", 1);
}

#[test]
fn debian_6_12_as_bzimage_on_two_cpus() {
    boots(&Bench::new(), Version::V6_12, "bzImage", 2);
}

#[test]
fn debian_6_12_as_elf_warns_no_more_than_on_qemu() {
    let bench = Bench::new();
    let text = boots(&bench, Version::V6_12, "vmlinux", 1);
    warns_no_more_than_on_qemu(&bench, Version::V6_12, &text, 1);
}

#[test]
fn the_full_matrix_of_kernels_images_and_cpus() {
    if !full("the full matrix takes minutes") {
        return;
    }
    let bench = Bench::new();
    for version in [Version::V6_1, Version::V6_12] {
        for image in ["bzImage", "vmlinux"] {
            for cpus in [1, 2, 4] {
                let text = boots(&bench, version, image, cpus);
                if image == "bzImage" && cpus != 4 {
                    warns_no_more_than_on_qemu(&bench, version, &text, cpus);
                }
            }
        }
    }
}
