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
echo 60 > /proc/sys/kernel/watchdog_thresh
@LOAD_MODULES@
ifconfig lo 127.0.0.1 up
n=0; until [ -b /dev/vda ] || [ $n = 100 ]; do usleep 100000; n=$((n+1)); done
cd /tmp
bad() { echo "bad $*"; }
done_() { echo $2 > $1.new; mv $1.new $1; }
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
    dd if=/dev/urandom of=kept bs=64k count=128 2>/dev/null; sum=$(md5sum < kept); i=0
    while :; do i=$((i+1)); [ "$(md5sum < kept)" = "$sum" ] || bad memory $i; done_ memory $i; usleep 100000; done
}
timers() {
    i=0; while :; do
        i=$((i+1)); from=$(cut -d. -f1 /proc/uptime); sleep 1; to=$(cut -d. -f1 /proc/uptime)
        [ $to -gt $from ] || bad timer $i $from $to; done_ timers $i
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
while :; do
    echo "beat $(cat disk) $(cat memory) $(cat timers) $(cat tcp)"
    line=; read -r -t 1 line; [ "$line" = end ] && break
done
echo "report forks $(dmesg | grep -c 'crng reseeded due to virtual machine fork')"
dmesg -r | grep '^<[0-4]>' | sed 's/^<[0-9]>\[[ 0-9.]*\] /warning /'
echo "report end 1"
poweroff -f
"#;

/// `beats N` waits until the guest has done something of each kind since its process N began.
const SCRIPT: &str = r#"
truncate -s 4M d.img; mkfifo in; exec 9<>in
beats() {
    n=0; until awk '$1 == "beat" && NF == 5 { if (!a) { a = $2; b = $3; c = $4; d = $5 } else if ($2 > a && $3 > b && $4 > c && $5 > d) ok = 1 } END { exit !ok }' out.$1
    do usleep 200000; n=$((n+1)); [ $n -lt 900 ] || { echo "report stuck $1"; tail -5 out.$1; cat err.$1; exit 99; }; done
}
drystone run --id vm --cpus $cpus --memory 160M --transport $transport --disk path=d.img,id=data --kernel vmlinux --initrd guest.cpio --cmdline quiet <in >out.0 2>err.0 & vm=$!
beats 0
mkdir small; mount -t tmpfs -o size=1M tmpfs small
drystone snapshot vm small/snap --stop 2>full.err && echo "report full written"
echo "report full $(cat full.err)"; echo "report left $(ls -A small | wc -l)"; umount small
beats 0
i=0; while [ $i -lt $cycles ]; do
    i=$((i+1))
    drystone snapshot vm snap --stop || { echo "report snapshot failed"; exit 98; }
    wait $vm || { echo "report ended $?"; cat err.*; exit 97; }
    # Of another cycle, the machine is moved.
    [ $((i % 4)) = 0 ] && { mv d.img e.img; cp e.img d.img; rm e.img; moved="--disk data=d.img"; } || moved=
    drystone restore snap --id vm $moved <in >out.$i 2>err.$i & vm=$!
    beats $i
done
echo "report memory $(du -k snap/memory | cut -f1)"
echo end > in
wait $vm; echo "report code $?"
echo "report cycles $i"
i=0; while [ -f out.$i ]; do echo "--- process $i"; cat out.$i err.$i; i=$((i+1)); done
"#;

fn counts(line: &str) -> Option<Vec<u64>> {
    let counts = line.trim_end().strip_prefix("beat ")?;
    counts.split(' ').map(|n| n.parse().ok()).collect()
}

fn cycles(version: Version, cpus: u32, transport: &str, default: u32, full: u32) {
    let cycles = if std::env::var_os("DRYSTONE_FULL").is_some() { full } else { default };
    let bench = Bench::new();
    let script = format!("cpus={cpus} transport={transport} cycles={cycles}\n{SCRIPT}");
    let job = bench
        .job_of(version, INIT, MODULES, &script)
        .time_limit(Duration::from_secs(600 + 60 * u64::from(cycles)));
    let text = bench.run(job).text();
    assert_eq!(report(&text, "cycles"), Some(cycles.to_string().as_str()));
    assert_eq!((report(&text, "end"), report(&text, "code")), (Some("1"), Some("0")));
    assert_eq!(report(&text, "cpus"), Some(cpus.to_string().as_str()));
    // A full disk: said, nothing left behind, and the machine goes on.
    assert!(report(&text, "full").unwrap().ends_with("No space left on device (os error 28)"));
    assert_eq!(report(&text, "left"), Some("0"));
    let bad: Vec<_> = text.lines().filter(|line| line.starts_with("bad ")).collect();
    assert!(bad.is_empty(), "{bad:?}");
    let warnings: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("warning ")).collect();
    assert!(warnings.iter().all(|w| is_known_warning(w)), "{warnings:?}");
    // A restored guest is told that it is not the only one, once each time. Debian's 6.1 does not listen.
    let told = if version == Version::V6_1 { 0 } else { cycles };
    assert_eq!(report(&text, "forks"), Some(told.to_string().as_str()));
    // What is counted goes on where it was: never back, and no process says again what the one before has said.
    let beats: Vec<_> = text.lines().filter_map(counts).collect();
    assert!(beats.len() > 2 * cycles as usize);
    for pair in beats.windows(2) {
        let on = pair[0].iter().zip(&pair[1]).all(|(before, after)| before <= after);
        assert!(on && pair[0] != pair[1], "{pair:?}");
    }
    let kib: u64 = report(&text, "memory").unwrap().parse().unwrap();
    println!("{cycles} cycles; memory takes {kib} KiB of 163840");
    assert!(kib < 160 << 10, "zeros are stored");
}

#[test]
fn debian_6_12_goes_on_ten_times() {
    cycles(Version::V6_12, 1, "mmio", 10, 100);
}

#[test]
fn debian_6_12_goes_on_with_four_cpus() {
    if drystone_tests::full("four busy vCPUs on an emulated machine of two take minutes") {
        cycles(Version::V6_12, 4, "pci", 10, 100);
    }
}

#[test]
fn debian_6_1_goes_on() {
    if drystone_tests::full("snapshots of 6.1 take minutes") {
        cycles(Version::V6_1, 4, "pci", 20, 100);
    }
}
