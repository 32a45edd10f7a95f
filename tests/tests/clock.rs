//! The guest's clocks after a pause: as right as before it, as a sleeping laptop's are when it wakes.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_lab::Version;
use drystone_tests::{Bench, report};

/// Prints its clocks over and over, in nanoseconds: CLOCK_MONOTONIC, and what CLOCK_REALTIME is ahead of it (busybox's `date`
/// knows seconds only, /proc/timer_list both). Its watchdog takes 8 seconds without progress for a lock-up: less than the pause.
const INIT: &str = r#"#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
echo 4 > /proc/sys/kernel/watchdog_thresh
echo "report watchdog $(cat /proc/sys/kernel/soft_watchdog) $(cat /proc/sys/kernel/watchdog_thresh)"
echo "report source $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
dmesg -c > /dev/null
(sleep 25; dmesg -r | grep '^<[0-4]>' | sed 's/^<[0-9]>/warning /'; echo 'report warned done') &
clocks() { awk '/^now at/ { now = $3 } /ktime_get_real/ { real = 1 } real && /offset:/ { print now, $2; exit }' /proc/timer_list; }
while :; do echo "clock $(clocks)"; usleep 30000; done
"#;

/// Each line of the guest comes with the time at which it arrived here.
const SCRIPT: &str = r#"
clocks() { awk '/^now at/ { now = $3 } /ktime_get_real/ { real = 1 } real && /offset:/ { print now, $2; exit }' /proc/timer_list; }
stamp() { while read -r line; do echo "$(clocks) $line"; done; }
lines() { grep -c ' clock ' a.out; }
until_lines() { n=0; until [ "$(lines)" -ge $1 ]; do usleep 200000; n=$((n+1)); [ $n -lt 600 ] || { cat a.out a.log; exit 99; }; done; }
drystone run --id a --cpus 2 --kernel vmlinux --initrd guest.cpio --memory 128M --cmdline quiet --log-file a.log < /dev/null 2> a.err | stamp > a.out &
until_lines 60
drystone pause a || exit 98; sleep 1; before=$(lines); sleep 9; echo "report paused_lines $(( $(lines) - before ))"
drystone resume a || exit 97
until_lines $(( before + 60 ))
n=0; until grep -q 'report warned done' a.out; do usleep 200000; n=$((n+1)); [ $n -lt 600 ] || break; done
drystone stop a
echo "report before $before"
cat a.out
"#;

/// What the guest's clocks lack to this machine's, and when a line arrived; in nanoseconds.
struct Reading {
    arrived: i128,
    real: i128,
    monotonic: i128,
}

fn readings(text: &str) -> Vec<Reading> {
    let reading = |line: &str| {
        let (here, there) = line.split_once(" clock ")?;
        let pair = |text: &str| -> Option<(i128, i128)> {
            let (monotonic, ahead) = text.trim().split_once(' ')?;
            Some((monotonic.parse().ok()?, ahead.parse().ok()?))
        };
        let (here, there) = (pair(here)?, pair(there)?);
        let (arrived, real, monotonic) = (here.0 + here.1, there.0 + there.1, there.0);
        Some(Reading { arrived, real: arrived - real, monotonic: arrived - monotonic })
    };
    text.lines().filter_map(reading).collect()
}

/// A line is late by as long as it took to be printed and read, so the smallest difference of many is the truest.
fn smallest(readings: &[Reading], clock: impl Fn(&Reading) -> i128) -> i128 {
    readings.iter().map(clock).min().expect("there are readings")
}

#[test]
fn clocks_are_right_after_a_pause() {
    const MILLISECOND: i128 = 1_000_000;
    let bench = Bench::new();
    let outcome = bench.run(bench.job_of(Version::V6_12, INIT, &[], SCRIPT));
    assert_eq!(outcome.code, 0);
    let text = outcome.text();
    let stamped = |name: &str| {
        let wanted = format!(" report {name} ");
        text.lines().find_map(|line| Some(line.split_once(&wanted)?.1.trim().to_owned()))
    };
    assert_eq!(stamped("watchdog").as_deref(), Some("1 4"), "a guest that is not told would warn");
    assert_eq!(stamped("source").as_deref(), Some("kvm-clock"));

    let readings = readings(&text);
    let gap = readings.windows(2).position(|w| w[1].arrived - w[0].arrived > 8_000 * MILLISECOND);
    let (before, after) = readings.split_at(gap.expect("the pause shows") + 1);
    assert!(before.len() >= 50 && after.len() >= 50, "{} {}", before.len(), after.len());
    for (name, clock) in [
        ("real", (|r| r.real) as fn(&Reading) -> i128),
        ("monotonic", (|r| r.monotonic) as fn(&Reading) -> i128),
    ] {
        let (before, after) = (smallest(before, clock), smallest(after, clock));
        println!("CLOCK_{name} behind by {before} ns before the pause and {after} ns after it");
        assert!((after - before).abs() < 50 * MILLISECOND, "CLOCK_{name} drifted by {} ns", after - before);
    }
    assert!(smallest(after, |r| r.real).abs() < 1_000 * MILLISECOND, "the wall clock is the host's");

    assert!(stamped("warned").is_some(), "the guest looked");
    let warnings: Vec<_> = text.lines().filter(|line| line.contains(" warning ")).collect();
    assert!(warnings.is_empty(), "{warnings:#?}");
    assert_eq!(report(&text, "paused_lines"), Some("0"));
}
