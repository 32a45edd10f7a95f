//! A stock kernel on disks in qcow2, with and without a backing file.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_lab::initramfs::Builder;
use drystone_lab::{Progress, Version};
use drystone_tests::{Bench, PATIENT, full, is_known_warning, report};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// The guest. On the disk is a file system of kind `fs=` that it makes itself when `test=make`, and starts again; with `test=go` there
/// is one, with content that the overlay has from its backing file.
const INIT: &str = r#"#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
@LOAD_MODULES@
for word in $(cat /proc/cmdline); do case $word in test=*) test=${word#test=};; fs=*) fs=${word#fs=};; esac; done
n=0; until [ -b /dev/vda ] || [ $n = 200 ]; do usleep 100000; n=$((n+1)); done
mkdir -p /mnt
ok() { name=$1; shift; "$@" > /log 2>&1; code=$?; echo "report $name $code"; [ $code = 0 ] || { sed 's/^/said /' /log; dmesg | tail -n 5; poweroff -f; }; }
check() {
    case $fs in ext4) ok "$1" debian-e2fsck -f -n /dev/vda;; xfs) ok "$1" xfs_repair -n /dev/vda;; esac
}
fill() { # From every CPU at once, each in its own way.
    for cpu in 0 1 2 3; do
        { dd if=/dev/urandom of=/mnt/$1$cpu bs=$((4096 << cpu)) count=$((96 >> cpu)) conv=fsync 2>/dev/null; } &
    done; wait
    ( cd /mnt && md5sum $1* > $1.sums ); sync
}
same() { echo 3 > /proc/sys/vm/drop_caches; ok "same_$1" sh -c "cd /mnt && md5sum -c -s $1.sums"; }
complain() { dmesg -r | grep '^<[0-4]>' | sed 's/^<[0-9]>\[[ 0-9.]*\] /warning /'; }
case $test in
make)
    if mount -t $fs /dev/vda /mnt 2>/dev/null; then
        same one
        rm /mnt/gone*; sync; ok fstrim fstrim /mnt
        ok umount umount /mnt
        check fsck_again; complain
        poweroff -f
    fi
    echo "report queues $(ls /sys/block/vda/mq | wc -l)"
    case $fs in ext4) ok mkfs debian-mke2fs -q -t ext4 /dev/vda;; xfs) ok mkfs mkfs.xfs -q /dev/vda;; esac
    ok mount mount -t $fs /dev/vda /mnt
    fill one; same one; fill gone
    dd if=/dev/urandom of=/mnt/gone bs=64k count=200 conv=fsync 2>/dev/null
    ok umount umount /mnt
    check fsck; complain
    reboot -f;;
go)
    ok mount mount -t $fs /dev/vda /mnt
    same one; fill two; same two
    echo ready
    i=0; until [ -e /stop ]; do
        dd if=/dev/urandom of=/mnt/turn$((i % 5)) bs=8k count=$((1 + i % 7)) conv=fsync 2>/dev/null
        ( cd /mnt && md5sum -c -s one.sums && md5sum -c -s two.sums ) || echo "report differs $i"
        echo 3 > /proc/sys/vm/drop_caches; echo "turn $i"
        [ $((i % 3)) = 0 ] && { rm -f /mnt/turn*; fstrim /mnt; }
        read -r -t 0.1 word && case $word in *stop) break;; esac; i=$((i+1))
    done
    same one; same two
    ok umount umount /mnt
    check fsck; complain
    poweroff -f;;
flush)
    i=0; while :; do
        i=$((i+1)); at=$((i * 37 % 4096))
        printf '%08d' $i | dd of=/dev/vda bs=4096 seek=$at conv=notrunc,sync,fsync 2>/dev/null && echo "flushed $i"
    done;;
esac
"#;

const MODULES: &[&str] = &["virtio_mmio", "virtio_pci", "virtio_blk", "ext4", "xfs"];

/// File systems are made by the guest itself, which has the tools with it.
fn tools(bench: &Bench) -> impl FnOnce(Builder) -> Builder + use<> {
    let package = |name| bench.lab.package(name, &Progress::stderr()).expect(name);
    let (ext4, xfs) = (package("e2fsprogs"), package("xfsprogs"));
    move |guest| {
        let guest = guest.program("/bin/debian-mke2fs", &ext4, "usr/sbin/mke2fs").expect("mke2fs");
        let guest = guest.program("/bin/debian-e2fsck", &ext4, "usr/sbin/e2fsck").expect("e2fsck");
        let guest = guest.program("/bin/mkfs.xfs", &xfs, "usr/sbin/mkfs.xfs").expect("mkfs.xfs");
        guest.program("/bin/xfs_repair", &xfs, "usr/sbin/xfs_repair").expect("xfs_repair")
    }
}

/// What the script says of what the guest said, and what it waits for.
const PRELUDE: &str = r#"
lost() { echo "$1"; cat out* log; exit 99; }
await() {
    n=0; until "$@"; do
        usleep 200000; n=$((n+1)); [ $n -lt 1500 ] || lost "TIMEOUT: $*"; kill -0 $pid 2>/dev/null || "$@" || lost "GONE: $*"
    done
}
says() { grep -q "$1" $2 2>/dev/null; }
room() { du -k $1 | cut -f 1; }
"#;

/// qemu-img, if this machine has it.
fn qemu_img(arguments: &[&str]) -> Option<(Option<i32>, String)> {
    match Command::new("qemu-img").args(arguments).output() {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            Some((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
        }
        Err(e) => {
            eprintln!("NOT RUN: there is no qemu-img on this machine to look at the image: {e}");
            None
        }
    }
}

/// That an image is not damaged; with `leaks`, some clusters may be nobody's.
fn is_whole(image: &Path, leaks: bool) {
    if let Some((code, said)) = qemu_img(&["check", "-f", "qcow2", image.to_str().unwrap()]) {
        assert!(code == Some(0) || (leaks && code == Some(3)), "{}: {said}", image.display());
    }
}

/// The disk's content, as QEMU reads it.
fn content(image: &Path) -> Option<PathBuf> {
    let raw = image.with_extension("raw");
    let (from, to) = (image.to_str().unwrap(), raw.to_str().unwrap());
    let (code, said) = qemu_img(&["convert", "-f", "qcow2", "-O", "raw", from, to])?;
    assert_eq!(code, Some(0), "{said}");
    Some(raw)
}

struct Case {
    fs: &'static str,
    transport: &'static str,
    cpus: u32,
}

/// A new image is filled, the guest starts again, gives room back; then another guest goes on over it, is written down and goes on once more.
fn live(bench: &Bench, case: &Case) {
    let Case { fs, transport, cpus } = case;
    let dir = TempDir::new().unwrap();
    let script = format!(
        r#"{PRELUDE}
# So that what was said comes back, whatever is missing.
touch base-out.qcow2 top-saved.qcow2 top-paused.qcow2 top-out.qcow2
run() {{ drystone run --id d --kernel vmlinux --initrd guest.cpio --memory 320M --cpus {cpus} --transport {transport} --log-file log "$@"; }}
drystone disk create base.qcow2 --format qcow2 --size 400M || exit 9
run --console file:out1 --disk base.qcow2,format=qcow2,queues={cpus} --cmdline 'quiet {PATIENT} test=make fs={fs}' < /dev/null & pid=$!
await says 'report fsck ' out1; echo "report full $(room base.qcow2)"
wait $pid; echo "report exit1 $?"
echo "report trimmed $(room base.qcow2)"
cp base.qcow2 base-out.qcow2
drystone disk create top.qcow2 --format qcow2 --backing base.qcow2 --backing-format qcow2 || exit 9
before=$(md5sum < base.qcow2)
mkfifo in
run --console stdio --disk top.qcow2,format=qcow2,backing=allow,queues={cpus},engine=threads \
    --cmdline 'quiet {PATIENT} test=go fs={fs}' < /dev/null > out2 & pid=$!
await says 'turn 4' out2
drystone snapshot d snap --stop || echo "report snapshot failed"
wait $pid
cp top.qcow2 top-saved.qcow2
drystone restore snap --id d --log-file log < in > out3 & pid=$!
exec 3> in
await says 'turn 9' out3
drystone pause d; cp top.qcow2 top-paused.qcow2; drystone resume d
await says 'turn 11' out3
# A guest that looks whether there is a line has only so long for it, and may find half of one: then it is said again.
trap '' PIPE
until says 'report umount' out3 || ! kill -0 $pid 2>/dev/null; do echo stop >&3 2>/dev/null; usleep 500000; done
wait $pid; echo "report exit2 $?"
cp top.qcow2 top-out.qcow2
[ "$(md5sum < base.qcow2)" = "$before" ] || echo "report base changed"
cat out1 out2 out3 log
"#
    );
    let job = bench.job_with(Version::V6_12, INIT, MODULES, tools(bench), &script);
    let mut job = job.time_limit(Duration::from_secs(600));
    let images = ["base-out.qcow2", "top-saved.qcow2", "top-paused.qcow2", "top-out.qcow2"];
    for image in images {
        job = job.output(image, dir.path().join(image));
    }
    let outcome = bench.run(job);
    let text = outcome.text();
    let context = format!("{fs} over {transport} on {cpus} CPUs");
    assert_eq!(outcome.code, 0, "{context}");
    let all = |name: &str| -> Vec<String> {
        let prefix = format!("report {name} ");
        text.lines().filter_map(|l| l.trim_end().strip_prefix(&prefix)).map(str::to_owned).collect()
    };
    assert_eq!((all("exit1"), all("exit2")), (vec!["0".into()], vec!["0".into()]), "{context}");
    assert_eq!(all("queues"), [cpus.to_string()], "{context}");
    for (name, times) in [
        ("mkfs", 1),
        ("mount", 2),
        ("same_one", 4),
        ("same_two", 2),
        ("umount", 3),
        ("fsck", 2),
        ("fsck_again", 1),
        ("fstrim", 1),
    ] {
        assert_eq!(all(name), vec!["0"; times], "{context}: {name}");
    }
    for wrong in ["snapshot", "base", "differs"] {
        assert_eq!(report(&text, wrong), None, "{context}: {wrong}");
    }
    let room = |name: &str| all(name)[0].parse::<u64>().unwrap();
    assert!(room("trimmed") + (10 << 10) < room("full"), "{context}: {} {}", room("full"), room("trimmed"));
    let warnings = text.lines().filter_map(|l| l.trim_end().strip_prefix("warning "));
    let new: Vec<_> = warnings.filter(|w| !is_known_warning(w)).collect();
    assert!(new.is_empty(), "{context}: new kernel warnings: {new:#?}");
    // Those over it name it so.
    std::fs::rename(dir.path().join("base-out.qcow2"), dir.path().join("base.qcow2")).unwrap();
    is_whole(&dir.path().join("base.qcow2"), false);
    images[1..].iter().for_each(|image| is_whole(&dir.path().join(image), false));
    if let Some(raw) = content(&dir.path().join("top-out.qcow2")).filter(|_| *fs == "ext4") {
        let checked = bench.lab.e2fsck().args(["-f", "-n"]).arg(raw).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    }
}

#[test]
fn ext4_lives_on_qcow2_and_over_a_backing_file() {
    live(&Bench::new(), &Case { fs: "ext4", transport: "pci", cpus: 4 });
}

#[test]
fn every_file_system_lives_on_qcow2_on_every_transport() {
    if !full("both file systems on both transports with one and four queues") {
        return;
    }
    let bench = Bench::new();
    for fs in ["ext4", "xfs"] {
        for transport in ["pci", "mmio"] {
            [1, 4].into_iter().for_each(|cpus| live(&bench, &Case { fs, transport, cpus }));
        }
    }
}

/// Every block that the guest was told is on the disk is there, and nothing of the image is damaged.
#[test]
fn nothing_that_was_flushed_to_qcow2_is_lost_when_the_machine_is_killed() {
    let (bench, dir) = (Bench::new(), TempDir::new().unwrap());
    let script = format!(
        r#"{PRELUDE}
drystone disk create a.qcow2 --format qcow2 --size 16M || exit 9
drystone run --kernel vmlinux --initrd guest.cpio --memory 256M --disk a.qcow2,format=qcow2 --console file:out \
    --cmdline 'quiet test=flush' < /dev/null & pid=$!
n=0; until [ "$(grep -c ^flushed out)" -ge 60 ] || [ $n = 1200 ]; do usleep 100000; n=$((n+1)); done
kill -9 $(pidof drystone); wait $pid; echo "report killed $?"
echo "report flushed $(grep ^flushed out | tail -n 1 | tr -dc 0-9)"
"#
    );
    let image = dir.path().join("a.qcow2");
    let job = bench.job_of(Version::V6_12, INIT, MODULES, &script).output("a.qcow2", &image);
    let outcome = bench.run(job);
    assert_eq!(outcome.code, 0);
    let flushed: usize = report(&outcome.text(), "flushed").unwrap().parse().unwrap();
    assert!((60..4096).contains(&flushed), "{flushed}");
    is_whole(&image, true);
    let Some(raw) = content(&image) else { return };
    let bytes = std::fs::read(raw).unwrap();
    for i in 1..=flushed {
        let at = i * 37 % 4096 * 4096;
        assert_eq!(std::str::from_utf8(&bytes[at..at + 8]), Ok(format!("{i:08}").as_str()), "lost {i}");
    }
}
