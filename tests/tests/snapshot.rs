//! Stock kernels under load, written down and continued in a fresh process over and over: nothing is lost, and nothing happens twice.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_lab::Version;
use drystone_tests::{Bench, is_known_warning, report};
use std::time::Duration;

const MODULES: &[&str] = &["virtio_mmio", "virtio_pci", "virtio_blk", "virtio_rng"];

/// Four kinds of work that check themselves: blocks written through to the disk and read back, memory with a known sum, timers, and
/// one TCP connection that stays open. Each counts what it did; the counts are printed over and over.
const INIT: &str = r#"#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
# What is typed would come in the middle of what is said.
stty -echo
echo 60 > /proc/sys/kernel/watchdog_thresh
@LOAD_MODULES@
ifconfig lo 127.0.0.1 up
n=0; until [ -b /dev/vda ] || [ $n = 100 ]; do usleep 50000; n=$((n+1)); done
cd /tmp
bad() { echo "bad $*"; }
hundredths() { read -r up idle < /proc/uptime; echo ${up%.*}${up#*.}; }
# A count is written in one piece, but it is read byte by byte, and the file is empty in between.
done_() { echo $2 > $1; }
count() { until read -r count < $1 && read -r again < $1 && [ "$count" = "$again" ]; do :; done; counts="$counts $count"; }
disk() {
    i=0; while :; do
        i=$((i+1)); n=$((i % 500)); echo $i | md5sum > block
        dd if=block of=/dev/vda bs=4k seek=$n conv=notrunc,fsync 2>/dev/null || bad disk write $i
        dd if=/dev/vda of=back bs=4k skip=$n count=1 iflag=direct 2>/dev/null || bad disk read $i
        [ "$(head -c 36 back)" = "$(head -c 36 block)" ] || bad disk $i
        done_ disk $i
    done
}
memory() {
    dd if=/dev/urandom of=kept bs=64k count=16 2>/dev/null; sum=$(md5sum < kept); i=0
    while :; do i=$((i+1)); [ "$(md5sum < kept)" = "$sum" ] || bad memory $i; done_ memory $i; usleep 50000; done
}
timers() {
    i=0; while :; do
        i=$((i+1)); from=$(hundredths); usleep 250000; to=$(hundredths)
        [ $((to - from)) -ge 25 ] || bad timer $i $from $to; done_ timers $i
    done
}
tcp() {
    nc -ll -p 7 -e cat & sleep 1
    mkfifo there back.tcp; nc 127.0.0.1 7 < there > back.tcp &
    exec 3> there 4< back.tcp; i=0
    while :; do
        i=$((i+1)); echo "line $i" >&3; read -r line <&4; [ "$line" = "line $i" ] || bad tcp "$i: $line"; done_ tcp $i
    done
}
for work in disk memory timers tcp; do echo 0 > $work; $work & done
dmesg -c > /dev/null
echo "report cpus $(grep -c ^processor /proc/cpuinfo)"
n=0; while :; do
    n=$((n+1)); counts=$n; for work in disk memory timers tcp; do count $work; done; echo "beat $counts"
    read -r up idle < /proc/uptime; echo "up $up"
    line=; read -r -t 0.2 line; [ "$line" = end ] && break
done
echo "report forks $(dmesg | grep -c 'crng reseeded due to virtual machine fork')"
dmesg -r | grep '^<[0-4]>' | sed 's/^<[0-9]>\[[ 0-9.]*\] /warning /'
echo "report end 1"
poweroff -f
"#;

/// `beats` waits until the guest has done something of each kind since its present process began; `cycle SECONDS OPTION…` writes it down
/// and restores it after so many seconds; `slept NAME OPTION…` does that with clocks looked at. With the console's carriage return a
/// count would be a text, and 1000 less than 999.
const SCRIPT: &str = r#"
truncate -s 4M d.img; mkfifo in; exec 9<>in
i=0
beats() {
    n=0; until awk '$1 == "beat" && NF == 6 { sub(/\r/, ""); if (!a) { a = $3; b = $4; c = $5; d = $6 } else if ($3 > a && $4 > b && $5 > c && $6 > d) ok = 1 } END { exit !ok }' out.$i
    do usleep 200000; n=$((n+1)); [ $n -lt 3000 ] || { echo "report stuck $i"; tail -5 out.$i; cat err.$i; exit 99; }; done
}
up() { cut -d' ' -f1 /proc/uptime; }
cycle() {
    drystone snapshot vm snap --stop || { echo "report snapshot failed"; exit 98; }
    wait $vm || { echo "report ended $?"; cat err.*; exit 97; }
    # Of another cycle, its disk is another file.
    [ $((i % 4)) = 3 ] && { cp d.img e.img; mv e.img d.img; set -- "$@" --disk data=d.img; }
    gone=$(up); sleep $1; shift; back=$(up)
    i=$((i+1)); drystone restore snap --id vm "$@" <in >out.$i 2>err.$i & vm=$!
    beats; echo "cycle $i at $(up)"
}
# The guest's uptime, read from now on: the line after the next.
moment() {
    n=$(grep -c '^up ' out.$i); until [ $(grep -c '^up ' out.$i) -ge $((n + 2)) ]; do usleep 100000; done
    sed -n 's/^up \([0-9.]*\).*/\1/p' out.$i | tail -1
}
slept() {
    name=$1; shift; from=$(up); was=$(moment); cycle 5 "$@"; is=$(moment)
    echo "report slept_$name $from $was $gone $back $is $(up)"
}
drystone run --id vm --cpus $cpus --memory 96M --transport $transport --disk path=d.img,id=data --kernel vmlinux --initrd guest.cpio --cmdline 'quiet init_on_free=1' <in >out.0 2>err.0 & vm=$!
beats; echo "booted at $(up)"
mkdir small; mount -t tmpfs -o size=1M tmpfs small
drystone snapshot vm small/snap --stop 2>full.err && echo "report full written"
echo "report full $(cat full.err)"; echo "report left $(ls -A small | wc -l)"; umount small
beats
while [ $i -lt $cycles ]; do
    cycle 0
done
$last
echo "report memory $(du -k snap/memory | cut -f1)"
# The guest waits for a line for a moment at a time, and loses half of one.
(while :; do echo end; sleep 2; done > in) & ender=$!
wait $vm; echo "report code $?"; kill $ender
echo "report cycles $cycles"
# All that the guest has said, as one text: a line may begin in one process and end in the next.
i=0; while [ -f out.$i ]; do cat out.$i; i=$((i+1)); done; cat err.*
"#;

/// What a beat counts: itself first, then each kind of work.
fn counts(line: &str) -> Option<Vec<u64>> {
    let counts = line.trim_end().strip_prefix("beat ")?;
    counts.split(' ').map(|n| n.parse().ok()).collect()
}

/// By a clock that goes on, at least the time has gone by in which there was no machine; by one that stands still, at most the time
/// in which there was.
fn clocks_are_as_asked(text: &str) {
    for name in ["slept_on", "slept_not"] {
        let times: Vec<f64> = report(text, name).unwrap().split(' ').map(|n| n.parse().unwrap()).collect();
        let [from, was, gone, back, is, to] = times[..] else { panic!("{name}: {times:?}") };
        // Hundredths of a second are shown.
        let (passed, shown) = (is - was, 0.04);
        if name == "slept_on" {
            assert!(passed + shown >= back - gone, "{passed} of {}", back - gone);
        } else {
            assert!(passed <= (gone - from) + (to - back) + shown, "{passed} of {times:?}");
        }
    }
}

/// Ten of them, and ten once more for each time in `jobs`: a job that the emulator takes along costs no more than itself.
fn ten_cycles(version: Version, cpus: u32, transport: &str, jobs: u32) {
    let jobs = if std::env::var_os("DRYSTONE_FULL").is_some() { jobs } else { 1 };
    (0..jobs).for_each(|_| cycles(version, cpus, transport, 10));
}

fn cycles(version: Version, cpus: u32, transport: &str, cycles: u32) {
    let bench = Bench::new();
    // Clocks are looked at once: nothing about them depends on the transport.
    let clocks = transport == "mmio";
    let last = if clocks { "slept on; slept not --clocks stand-still --keep-identity" } else { "" };
    let script =
        format!("cpus={cpus} transport={transport} cycles={cycles}\n{}", SCRIPT.replace("$last", last));
    let job = bench.job_of(version, INIT, MODULES, &script).time_limit(Duration::from_secs(3600));
    let text = bench.run(job).text();
    assert_eq!(report(&text, "cycles"), Some(cycles.to_string().as_str()));
    assert_eq!((report(&text, "end"), report(&text, "code")), (Some("1"), Some("0")));
    assert_eq!(report(&text, "cpus"), Some(cpus.to_string().as_str()));
    // A full disk: said, nothing left behind, and the machine goes on.
    assert!(report(&text, "full").unwrap().ends_with("No space left on device (os error 28)"));
    assert_eq!(report(&text, "left"), Some("0"));
    // A kernel that powers off takes its disks away from who still uses them.
    let lived = text.lines().take_while(|line| line.trim_end() != "report end 1");
    let bad: Vec<_> = lived.filter(|line| line.starts_with("bad ")).collect();
    assert!(bad.is_empty(), "{bad:?}");
    let warnings: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("warning ")).collect();
    assert!(warnings.iter().all(|w| is_known_warning(w)), "{warnings:?}");
    // A restored guest is told that it is not the only one, once each time. Debian's 6.1 does not listen.
    let told = if version == Version::V6_1 { 0 } else { cycles + u32::from(clocks) };
    assert_eq!(report(&text, "forks"), Some(told.to_string().as_str()));
    // What is counted goes on where it was, and never back; no beat is lost between two processes or said twice.
    let beats: Vec<_> = text.lines().filter_map(counts).collect();
    assert!(beats.len() > 2 * cycles as usize);
    for pair in beats.windows(2) {
        let on = pair[0].iter().zip(&pair[1]).all(|(before, after)| before <= after);
        assert!(on && pair[1][0] == pair[0][0] + 1, "{pair:?}");
    }
    if clocks {
        clocks_are_as_asked(&text);
    }
    let kib: u64 = report(&text, "memory").unwrap().parse().unwrap();
    println!("{cycles} cycles; memory takes {kib} KiB of 98304");
    assert!(kib < 96 << 10, "zeros are stored");
}

#[test]
fn debian_6_12_goes_on_ten_times() {
    ten_cycles(Version::V6_12, 1, "mmio", 5);
}

#[test]
fn debian_6_12_goes_on_ten_times_with_four_cpus_over_pci() {
    ten_cycles(Version::V6_12, 4, "pci", 5);
}

#[test]
fn debian_6_1_goes_on() {
    if drystone_tests::full("snapshots of 6.1 take minutes") {
        ten_cycles(Version::V6_1, 4, "pci", 1);
    }
}
