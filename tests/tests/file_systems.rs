//! Stock kernels with file systems on raw disks: made, used by fio with verification, given room back, grown, checked, over a reset, a kill
//! and snapshots.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_lab::{Job, Version};
use drystone_tests::{Bench, PATIENT, full, is_known_warning, report, tools_disk};
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

const MODULES: &[&str] = &["virtio_mmio", "virtio_pci", "virtio_blk", "ext4", "xfs"];

/// How each guest begins: `vda` is what is looked at, the last disk has the programs. What the script outside is to do, the guest says
/// with `ask`, and waits for an answer.
const BEGIN: &str = r#"#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
stty -echo
@LOAD_MODULES@
for word in $(cat /proc/cmdline); do case $word in fs=* | tools=* | life=* | last=* | a=* | b=*) eval "$word";; esac; done
n=0; until [ -b /dev/$tools ] || [ $n = 100 ]; do usleep 100000; n=$((n+1)); done
mkdir -p /tools /mnt; mount -o ro /dev/$tools /tools || { echo "report tools failed"; poweroff -f; }
# Before the shell's own of the same name.
at=/tools/bin
ask() { echo "ask $1"; read -r answer; }
try() { what=$1; shift; "$@" > /tmp/said 2>&1 || { echo "report failed $what: $?"; tail -n 20 /tmp/said; }; echo "tried $what $life"; }
end() { dmesg -r | grep '^<[0-4]>' | sed 's/^<[0-9]>\[[ 0-9.]*\] /warning /'; echo "report end $life"; $1 -f; }
make() { case $fs in ext4) try mkfs $at/mke2fs -q -t ext4 $1;; xfs) try mkfs $at/mkfs.xfs -q -f $1;; esac; }
check() { case $fs in ext4) try fsck $at/e2fsck -f -n $1;; xfs) try fsck $at/xfs_repair -n $1;; esac; }
grow() { case $fs in ext4) try grow $at/resize2fs $1;; xfs) try grow $at/xfs_growfs /mnt;; esac; }
# Every block says where it belongs, and has a sum of itself.
verified() { $at/fio --verify=crc32c --verify_fatal=1 --ioengine=libaio --group_reporting --name=x "$@"; }
"#;

/// One file system from the beginning to the end. The first life makes and fills it, the second, after a reset, finds it whole.
const WHOLE: &str = r#"
cpus=$(grep -c ^processor /proc/cpuinfo)
files="--directory=/mnt --direct=1 --rw=randwrite --bsrange=4k-64k --iodepth=16 --numjobs=$cpus --size=$((16 / cpus))M"
if mount -t $fs /dev/vda /mnt 2>/dev/null; then
    life=2
    try read verified $files --verify_only
    [ "$(md5sum < /mnt/end)" = "$(cat /mnt/sum)" ]; echo "report end_kept $?"
    try umount umount /mnt
    check /dev/vda
    end poweroff
fi
life=1
echo "report queues $(ls /sys/block/vda/mq | wc -l)"
make /dev/vda
try mount mount -t $fs /dev/vda /mnt
try fio verified $files
dd if=/dev/urandom of=/mnt/fill bs=1M count=32 conv=fsync 2>/dev/null; ask full
rm /mnt/fill; sync; try fstrim fstrim /mnt; ask empty
was=$(cat /sys/block/vda/size); ask larger
n=0; until [ "$(cat /sys/block/vda/size)" != $was ] || [ $n = 600 ]; do usleep 100000; n=$((n+1)); done
free() { df -m /mnt | awk 'END { print $4 }'; }
was=$(free); grow /dev/vda; echo "report more $(($(free) - was))"
# Where there was no disk before.
try fill fallocate -l $((was + 20))M /mnt/room; dd if=/dev/urandom of=/mnt/end bs=64k count=32 conv=fsync 2>/dev/null; rm /mnt/room
md5sum < /mnt/end > /mnt/sum
try umount umount /mnt
end reboot
"#;

const WHOLE_SCRIPT: &str = r#"
truncate -s 320M data.img; mkfifo in; exec 9<>in
room() { echo "report room_$1 $(du -k data.img | cut -f1)"; }
drystone run --id d --kernel vmlinux --initrd guest.cpio --memory 256M --cpus $cpus --transport $transport --on-reset reset \
    --disk data.img,id=data,queues=$cpus --disk path=tools.img,readonly --log-file log \
    --cmdline "quiet $patient fs=$fs tools=vdb" < in > out & pid=$!
answered=0; n=0
while kill -0 $pid 2>/dev/null; do
    asked=$(grep -c '^ask ' out)
    if [ $asked -gt $answered ]; then
        what=$(grep '^ask ' out | tail -n 1 | tr -d '\r')
        case ${what#ask } in
        larger) drystone disk resize d data 448M || echo "report resize failed";;
        *) room ${what#ask };;
        esac
        answered=$asked; echo go > in
    fi
    usleep 200000; n=$((n+1)); [ $n -lt 6000 ] || { echo TIMEOUT; cat out log; exit 99; }
done
wait $pid; echo "report exit $?"
echo "report errors $(grep -c 'disk `data`' log)"
cat out; cat log >&2
"#;

/// The guest's disk with programs.
struct Rig {
    bench: Bench,
    tools: PathBuf,
    dir: TempDir,
}

impl Rig {
    fn new() -> Self {
        let (bench, dir) = (Bench::new(), TempDir::new().unwrap());
        let tools = tools_disk(&bench.lab, dir.path());
        Self { bench, tools, dir }
    }

    fn job(&self, init: &str, script: &str) -> Job {
        let init = format!("{BEGIN}{init}");
        let script = format!("patient='{PATIENT}'\n{script}");
        let job = self.bench.job_of(Version::V6_12, &init, MODULES, &script);
        job.file(&self.tools, "tools.img").time_limit(Duration::from_secs(3600))
    }
}

fn is_clean(text: &str) {
    let failed: Vec<_> = text.lines().filter_map(|l| l.trim_end().strip_prefix("report failed ")).collect();
    assert!(failed.is_empty(), "{failed:?}");
    let warnings = text.lines().filter_map(|l| l.trim_end().strip_prefix("warning "));
    let new: Vec<_> = warnings.filter(|w| !is_known_warning(w)).collect();
    assert!(new.is_empty(), "new kernel warnings: {new:#?}");
}

fn whole(rig: &Rig, fs: &str, transport: &str, cpus: u32) {
    let script = format!("fs={fs} transport={transport} cpus={cpus}\n{WHOLE_SCRIPT}");
    let outcome = rig.bench.run(rig.job(WHOLE, &script));
    let text = outcome.text();
    assert_eq!((outcome.code, report(&text, "exit")), (0, Some("0")), "{fs} {transport} {cpus}");
    is_clean(&text);
    for tried in
        ["mkfs 1", "fio 1", "fstrim 1", "grow 1", "fill 1", "umount 1", "read 2", "umount 2", "fsck 2"]
    {
        assert!(text.lines().any(|l| l.trim_end() == format!("tried {tried}")), "{fs}: no {tried}");
    }
    let number = |name: &str| report(&text, name).unwrap_or_else(|| panic!("{name}")).parse::<i64>().unwrap();
    assert_eq!((number("queues"), number("end_kept"), number("errors")), (i64::from(cpus), 0, 0));
    let (full, empty) = (number("room_full"), number("room_empty"));
    assert!(full - empty > 31 << 10, "32 MiB were given back: {full} KiB, {empty} KiB");
    assert!(number("more") > 100, "128 MiB more: {}", number("more"));
    assert_eq!(text.lines().filter(|l| l.starts_with("report end ")).count(), 2, "two lives");
}

#[test]
fn file_systems_are_made_used_grown_and_found_whole_after_a_reset() {
    let rig = Rig::new();
    let some = [("ext4", "pci", 4), ("xfs", "mmio", 1)];
    some.iter().for_each(|(fs, transport, cpus)| whole(&rig, fs, transport, *cpus));
    if full("the other six of file system, transport and queues") {
        for fs in ["ext4", "xfs"] {
            for transport in ["mmio", "pci"] {
                for cpus in [1, 4] {
                    if !some.contains(&(fs, transport, cpus)) {
                        whole(&rig, fs, transport, cpus);
                    }
                }
            }
        }
    }
}

/// Each life first reads what the killed one before it was told is on the disk, then writes to a fresh disk until it is killed. A block that
/// was never written has no sum, and there is no older content that could be taken for it.
const KILLED: &str = r#"
if [ $a != 0 ]; then
    try recover mount -t ext4 /dev/vdb /mnt
    for file in a b; do
        eval kib=\$$file; try read_$file verified --direct=1 --rw=read --bs=4k --filename=/mnt/$file --size=${kib}k
    done
    try umount umount /mnt
    check /dev/vdb
    echo "report read $life"
fi
[ $last = 1 ] && end poweroff
try mount mount -t ext4 /dev/vda /mnt
$at/fio --status-interval=200ms --minimal --verify=crc32c --do_verify=0 --ioengine=psync --rw=write --bs=4k --fsync=1 --size=12M \
    --name=a --filename=/mnt/a --name=b --filename=/mnt/b | awk -F';' '$1 == 3 { print "wrote", $3, $47; fflush() }'
echo "report end too soon"; sleep 1000
"#;

/// What fio has written when it says so has been synced, but for the last block.
const KILLED_SCRIPT: &str = r#"
options() { case $(($1 % 4)) in 0) echo queues=2;; 1) echo engine=threads,direct;; 2) echo cache=writethrough;; 3) echo direct;; esac; }
synced() { tr -d '\r' < out.$i | awk -v job=$1 '$1 == "wrote" && $2 == job { n = $3 } END { print (n > 4 ? n - 4 : 0) }'; }
i=0; a=0; b=0; cp fresh.img data.0
while :; do
    next=$((i+1)); cp fresh.img data.$next; last=0; [ $i = $rounds ] && last=1
    drystone run --id d --kernel vmlinux --initrd guest.cpio --memory 192M --cpus 2 --log-file log --console file:out.$i \
        --disk data.$next,$(options $i) --disk data.$i,$(options $next) --disk path=tools.img,readonly \
        --cmdline "quiet $patient fs=ext4 tools=vdc life=$i a=$a b=$b last=$last" < /dev/null & pid=$!
    if [ $last = 1 ]; then wait $pid; echo "report exit $?"; break; fi
    n=0; until [ $(synced a) -ge 100 ] && [ $(synced b) -ge 100 ]; do
        usleep 100000; n=$((n+1)); kill -0 $pid && [ $n -lt 3000 ] || { echo TIMEOUT; cat out.*; cat log; exit 99; }
    done
    usleep $(($(od -An -N2 -tu2 /dev/urandom) * 10))
    kill -9 $pid; wait $pid; a=$(synced a); b=$(synced b)
    echo "report synced $a $b"
    rm data.$i; i=$next
done
cat out.* log
"#;

#[test]
fn what_fio_has_synced_is_there_after_a_kill() {
    let rounds = if full("48 more kills, half an hour") { 50 } else { 2 };
    let rig = Rig::new();
    let fresh = rig.dir.path().join("fresh.img");
    std::fs::File::create(&fresh).unwrap().set_len(40 << 20).unwrap();
    let made = rig.bench.lab.mke2fs().args(["-q", "-t", "ext4"]).arg(&fresh).status();
    assert!(made.unwrap().success());
    let job = rig.job(KILLED, &format!("rounds={rounds}\n{KILLED_SCRIPT}")).file(&fresh, "fresh.img");
    let begun = std::time::Instant::now();
    let outcome = rig.bench.run(job);
    println!("{rounds} rounds in {:.0?}", begun.elapsed());
    let text = outcome.text();
    assert_eq!((outcome.code, report(&text, "exit"), report(&text, "end too")), (0, Some("0"), None));
    is_clean(&text);
    let count = |what: &str| text.lines().filter(|l| l.starts_with(what)).count();
    assert_eq!((count("report synced "), count("report read ")), (rounds, rounds));
}

/// fio writes and verifies, over and over, until somebody types a line.
const MOVED: &str = r#"
make /dev/vda
try mount mount -t $fs /dev/vda /mnt
(read -r line; touch /tmp/stop) < /dev/console &
(while sleep 1; do echo "wrote $(grep -c '^3;fio' /tmp/fio)"; done) &
n=0; while [ ! -e /tmp/stop ]; do
    n=$((n+1))
    verified --status-interval=1 --minimal --directory=/mnt --direct=1 --rw=randwrite --bsrange=4k-32k --iodepth=8 --numjobs=4 --size=2M --loops=6 \
        > /tmp/fio || { echo "report failed fio: $?"; grep -v '^3;' /tmp/fio; }
done
echo "report runs $n"
try umount umount /mnt
check /dev/vda
end poweroff
"#;

const MOVED_SCRIPT: &str = r#"
truncate -s 320M data.img; mkfifo in; exec 9<>in; i=0
# fio has said that it goes on, since this process is there.
beats() {
    n=0; until [ $(grep -c '^wrote [1-9]' out.$i) -ge 3 ]; do
        usleep 200000; n=$((n+1)); [ $n -lt 3000 ] || { echo TIMEOUT; cat out.* err.*; exit 99; }
    done
}
drystone run --id vm --kernel vmlinux --initrd guest.cpio --memory 256M --cpus 4 --disk data.img,id=data,queues=4 --disk path=tools.img,readonly \
    --cmdline "quiet $patient fs=xfs tools=vdb" < in > out.0 2> err.0 & vm=$!
while beats; [ $i -lt 3 ]; do
    drystone snapshot vm snap --stop || { echo "report failed snapshot"; exit 98; }
    wait $vm
    i=$((i+1)); drystone restore snap --id vm < in > out.$i 2> err.$i & vm=$!
done
(while :; do echo stop; sleep 2; done > in) & ender=$!
wait $vm; echo "report exit $?"; kill $ender
echo "report moved $i"
cat out.*; cat err.* >&2
"#;

#[test]
fn fio_verifies_over_snapshots() {
    let rig = Rig::new();
    let outcome = rig.bench.run(rig.job(MOVED, MOVED_SCRIPT));
    let text = outcome.text();
    assert_eq!((outcome.code, report(&text, "exit"), report(&text, "moved")), (0, Some("0"), Some("3")));
    is_clean(&text);
    for tried in ["tried umount", "tried fsck", "report runs"] {
        assert!(text.lines().any(|l| l.starts_with(tried)), "no {tried}");
    }
}
