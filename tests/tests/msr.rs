//! A stock kernel meets a machine's rules for model-specific registers.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_lab::Version;
use drystone_tests::{Bench, report};
use std::collections::BTreeMap;

/// Every kind of rule, on registers that Linux uses for nothing but its report of the microcode's revision: the processor's last
/// branch and exception records (AMD APM volume 2, 13.1.1), of which KVM answers each.
const CONFIG: &str = r#"
kernel = "vmlinux"
initrd = "guest.cpio"
memory = "128M"
cpus = 2
cmdline = "quiet"
[cpu.msrs]
"0x8b" = { emulate = 0x08301055 }
"0x1db-0x1de" = "deny"
"0x1dc" = "allow"
"#;

/// `rd CPU MSR` and `wr CPU MSR BYTE` through the kernel's msr device, the position in which is a register's number.
const INIT: &str = r#"#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
@LOAD_MODULES@
rd() { dd if=/dev/cpu/$1/msr iflag=skip_bytes skip=$(($2)) bs=8 count=1 2>/dev/null | xxd -p; }
wr() { printf "\\$3\0\0\0\0\0\0\0" | dd of=/dev/cpu/$1/msr oflag=seek_bytes seek=$(($2)) bs=8 count=1 conv=notrunc 2>/dev/null
    [ $? = 0 ] && echo done || echo refused; }
echo "report microcode" $(sed -n 's/^microcode.*: //p' /proc/cpuinfo)
echo "report emulated $(rd 0 0x8b) $(wr 0 0x8b 7) $(rd 0 0x8b) $(rd 1 0x8b)"
echo "report denied [$(rd 0 0x1db)] [$(rd 1 0x1de)] $(wr 0 0x1dd 7)"
echo "report allowed $(rd 0 0x1dc)"
echo "report unknown [$(rd 1 0x12345)]"
dmesg | grep -iE 'unchecked msr|BUG:|Call Trace' | sed 's/^/complaint /'
echo "report done yes"
while :; do sleep 1; done
"#;

const SCRIPT: &str = r#"
drystone run --id m --config msr.toml --console file:m.out --log-file m.log < /dev/null & pid=$!
lives() { n=0; until [ "$(cat m.out 2>/dev/null | grep -c '^report done')" -ge $1 ]; do
    usleep 200000; n=$((n+1)); [ $n -lt 3000 ] || { cat m.out m.log; exit 99; }; done; }
msrs() { drystone info m | sed -n "s/^msrs */$1 /p"; }
lives 1; msrs first
drystone reset m; lives 2; msrs second
drystone stop m; wait $pid; echo "report exit $?"; cat m.out
"#;

/// By registers and action: reads and writes, of lines such as `first 0x8b emulate: 3 reads, 1 writes`.
fn counters<'a>(text: &'a str, life: &str) -> BTreeMap<&'a str, (u64, u64)> {
    let counter = |line: &'a str| {
        let (rule, counts) = line.strip_prefix(life)?.trim_end().split_once(": ")?;
        let (reads, writes) = counts.split_once(" reads, ")?;
        Some((rule.trim(), (reads.parse().ok()?, writes.strip_suffix(" writes")?.parse().ok()?)))
    };
    text.lines().filter_map(counter).collect()
}

#[test]
fn a_stock_kernel_meets_every_kind_of_rule_and_is_counted() {
    let bench = Bench::new();
    let job = bench.job_of(Version::V6_12, INIT, &["msr"], SCRIPT).contents("msr.toml", CONFIG);
    let outcome = bench.run(job);
    assert_eq!(outcome.code, 0);
    let text = outcome.text();
    let reports = |name: &str| {
        let prefix = format!("report {name} ");
        let found = text.lines().filter_map(|line| line.trim_end().strip_prefix(prefix.as_str()));
        found.map(str::to_owned).collect::<Vec<_>>()
    };
    // In both lives: what the guest wrote before the reset is gone, and each vCPU has its own.
    let emulated = "5510300800000000 done 0700000000000000 5510300800000000";
    for (name, expected) in [
        ("microcode", "0x8301055 0x8301055"),
        ("emulated", emulated),
        ("denied", "[] [] refused"),
        ("unknown", "[]"),
        ("done", "yes"),
    ] {
        assert_eq!(reports(name), [expected, expected], "{name}");
    }
    let allowed = reports("allowed");
    assert!(allowed.len() == 2 && allowed.iter().all(|value| value.len() == 16), "{allowed:?}");
    assert_eq!(text.lines().find(|line| line.starts_with("complaint ")), None);
    assert_eq!(report(&text, "exit"), Some("0"));

    let (first, second) = (counters(&text, "first"), counters(&text, "second"));
    assert_eq!(first["0x1db-0x1de deny"], (2, 1));
    assert_eq!(second["0x1db-0x1de deny"], (4, 2), "counters go on over a reset");
    let (reads, writes) = first["0x8b emulate"];
    assert!(reads > 3 && writes >= 1, "the kernel asked too: {first:?}");
    assert!(first["unknown deny"].0 >= 1, "{first:?}");
    assert!(first.keys().all(|rule| !rule.contains("0x1dc")), "the hypervisor answers: {first:?}");
}
