//! Disks of a stock kernel while it runs: a host that fails, other sizes, limits.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_lab::Version;
use drystone_tests::{Bench, report};

/// The guest: writes to each disk, then waits until the last one has grown, and uses what is new of it.
const INIT: &str = r#"#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
@LOAD_MODULES@
for disk in /dev/vda /dev/vdb /dev/vdc /dev/vdd /dev/vde; do
    n=0; until [ -b $disk ] || [ $n = 100 ]; do usleep 100000; n=$((n+1)); done
done
dd if=/dev/urandom of=/data bs=64k count=4 2>/dev/null
write() { dd if=/data of=$1 bs=64k conv=fsync 2>/dev/null; echo "report $2 $?"; }
write /dev/vda reported
write /dev/vdb ignored
echo "report sum $(md5sum < /data)"
write /dev/vdc paused
echo ready
until [ "$(cat /sys/block/vdd/size)" = 16384 ]; do usleep 100000; done
dd if=/data of=/dev/vdd bs=64k seek=124 conv=fsync 2>/dev/null; echo "report grown $?"
dd if=/dev/vda of=/dev/null bs=64k skip=32 count=1 2>/dev/null; echo "report cut $?"
until [ "$(cat /sys/block/vdd/size)" = 24576 ]; do usleep 100000; done
write /dev/vde stopped
poweroff -f
"#;

/// What is done to it from outside. All disks are on a file system that is full when the guest writes.
const SCRIPT: &str = r#"
mkdir small; mount -t tmpfs -o size=2m none small
for name in reported ignored paused grown stopped; do truncate -s 4M small/$name.img; done
fill() { dd if=/dev/zero of=small/fill bs=4k 2>/dev/null; }
await() { n=0; until "$@"; do usleep 100000; n=$((n+1)); [ $n -lt 2000 ] || { echo "TIMEOUT: $*"; cat out log; exit 99; }; done; }
says() { grep -q "$1" out 2>/dev/null; }
is() { drystone info d 2>/dev/null | grep -q "state    $1"; }
metric() { drystone metrics d $1 | sed "s/^$1 //"; }
fill
disk() { echo "--disk path=small/$1.img,id=$1,on_io_error=$2"; }
drystone run --id d --kernel vmlinux --initrd guest.cpio --memory 128M --cmdline quiet --console file:out --log-file log \
    $(disk reported report) $(disk ignored ignore) $(disk paused pause) $(disk grown report) $(disk stopped stop) < /dev/null & pid=$!
await is paused
echo "report why $(drystone events d | grep ' paused ' | sed 's/.* paused //')"
drystone resume d; await is paused
rm small/fill; drystone resume d
await says ready
echo "report content $(dd if=small/paused.img bs=64k count=4 2>/dev/null | md5sum)"
for disk in reported ignored paused; do echo "report ${disk}_errors $(metric block.$disk.errors)"; done
echo "report exits $(metric vcpu.0.mmio_writes)"

drystone disk resize d nosuch 8M; echo "report nosuch $?"
drystone disk resize d grown 1M; echo "report smaller $?"
truncate -s 0 small/reported.img
drystone disk limit d grown --bandwidth 128K; echo "report limit $(metric block.grown.limit.bandwidth)"
echo "report before $(metric block.grown.size_bytes)"
drystone disk resize d grown 8M; echo "report resize $?"
await says 'report grown'
echo "report after $(metric block.grown.size_bytes)"
echo "report end $(tail -c 262144 small/grown.img | md5sum)"
echo "report throttled $(metric block.grown.throttled)"
fill; drystone disk resize d grown 12M
wait $pid; echo "report exit $?"
sed 's/^report /guest /' out; cat log
"#;

#[test]
fn a_disk_whose_host_fails_grows_and_is_limited() {
    let bench = Bench::new();
    let job = bench.job_of(Version::V6_12, INIT, &["virtio_mmio", "virtio_pci", "virtio_blk"], SCRIPT);
    let outcome = bench.run(job);
    assert_eq!(outcome.code, 0);
    let text = outcome.text();
    let guest = |name: &str| {
        let prefix = format!("guest {name} ");
        text.lines().find_map(|l| l.trim_end().strip_prefix(prefix.as_str())).map(str::to_owned)
    };
    let number = |name: &str| report(&text, name).unwrap_or_else(|| panic!("{name}")).parse::<u64>().unwrap();

    // What each policy makes of a host that has no room left.
    assert_eq!(guest("reported").as_deref(), Some("1"), "the guest is told");
    assert_eq!(guest("ignored").as_deref(), Some("0"), "the guest is not told");
    assert_eq!(guest("paused").as_deref(), Some("0"), "the guest waited until there was room");
    let why = report(&text, "why").unwrap();
    assert!(why.contains("disk `paused`: cannot write: No space left on device"), "{why}");
    assert_eq!(report(&text, "content").map(str::to_owned), guest("sum"), "nothing was lost");
    for disk in ["reported", "ignored", "paused"] {
        assert!(number(&format!("{disk}_errors")) > 0, "{disk}");
    }
    assert_eq!(report(&text, "exit"), Some("4"));
    assert!(text.contains("disk `stopped`: cannot write: No space left on device"));
    assert_eq!(guest("stopped"), None, "the guest never saw an error there");

    // Other sizes and limits.
    assert_eq!((number("nosuch"), number("smaller"), number("resize")), (1, 1, 0));
    assert_eq!((number("before"), number("after")), (4 << 20, 8 << 20));
    assert_eq!(guest("grown").as_deref(), Some("0"));
    assert_eq!(report(&text, "end").map(str::to_owned), guest("sum"));
    assert!(number("limit") == 128 << 10 && number("throttled") > 0);
    assert_eq!(guest("cut").as_deref(), Some("1"), "what somebody cut off cannot be read");
    assert!(number("exits") > 0);
}

/// The guest: uses disks of each engine, gives room back, switches a cache off.
const USE: &str = r#"#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
@LOAD_MODULES@
for disk in /dev/vda /dev/vdb /dev/vdc; do
    n=0; until [ -b $disk ] || [ $n = 200 ]; do usleep 100000; n=$((n+1)); done
done
cd /sys/block
for disk in vda vdb vdc; do
    q=$disk/queue
    echo "report $disk $(ls $disk/mq | wc -l) $(cat $q/discard_max_hw_bytes) $(cat $q/discard_granularity) $(cat $q/write_zeroes_max_bytes) $(cat $q/logical_block_size) $(cat $q/physical_block_size) $(tr ' ' - < $disk/cache_type)"
done
dd if=/dev/urandom of=/data bs=64k count=32 2>/dev/null
sum=$(md5sum < /data)
again() { echo 3 > /proc/sys/vm/drop_caches; [ "$(dd if=$1 bs=64k count=32 2>/dev/null | md5sum)" = "$sum" ]; echo "report content_$2 $?"; }
# A file system, with work on every CPU.
mkdir -p /mnt; mount -t ext4 -o dioread_lock /dev/vda /mnt || echo "report mount failed"
for cpu in 0 1 2 3; do taskset $((1 << cpu)) dd if=/data of=/mnt/data$cpu bs=64k conv=fsync 2>/dev/null & done; wait
for cpu in 0 1 2 3; do again /mnt/data$cpu vda$cpu; done
# Where a file has room that was never written, and some of it is, the kernel makes the rest zeros.
fallocate -l 32768 /mnt/zeros; dd if=/data of=/mnt/zeros bs=4k seek=3 count=1 conv=notrunc,fsync 2>/dev/null
rm /mnt/*[0-9s]; sync; fstrim /mnt; echo "report fstrim $?"
umount /mnt; echo "report umount $?"
for disk in vdb vdc; do dd if=/data of=/dev/$disk bs=64k conv=fsync 2>/dev/null; again /dev/$disk $disk; done
blkdiscard -o 524288 -l 1048576 /dev/vdb; echo "report blkdiscard $?"
echo 3 > /proc/sys/vm/drop_caches
[ "$(dd if=/dev/vdb bs=512k skip=1 count=2 2>/dev/null | md5sum)" = "$(dd if=/dev/zero bs=512k count=2 2>/dev/null | md5sum)" ]; echo "report holes $?"
echo "write through" > vda/cache_type; echo "report through $(tr ' ' - < vda/cache_type) $(tr ' ' - < vda/queue/write_cache)"
echo "write back" > vdc/cache_type; echo "report back $(tr ' ' - < vdc/cache_type)"
dmesg -r | grep '^<[0-4]>' | grep -i 'vd[abc]\|ext4' | sed 's/^/warning /'
echo used; sleep 1000
"#;

const USE_SCRIPT: &str = r#"
for name in b c; do truncate -s 16M $name.img; done
metric() { drystone metrics d $1 | sed "s/^$1 //"; }
room() { du -k $1.img | cut -f 1; }
drystone run --id d --kernel vmlinux --initrd guest.cpio --memory 256M --cpus 4 --cmdline quiet --console file:out --log-file log \
    --disk a.img,id=a,queues=4,engine=io_uring --disk b.img,id=b,queues=2,engine=threads,direct \
    --disk c.img,id=c,engine=io_uring,direct,cache=writethrough < /dev/null & pid=$!
n=0; until grep -q '^used' out 2>/dev/null; do usleep 200000; n=$((n+1)); [ $n -lt 1000 ] || { echo "TIMEOUT"; cat out log; exit 99; }; done
for disk in a b c; do for what in engine writeback errors refused discards zeroes written_bytes; do
    echo "report ${disk}_$what $(metric block.$disk.$what)"
done; done
drystone stop d; wait $pid; echo "report exit $?"
for disk in a b c; do echo "report room_$disk $(room $disk)"; done
sed 's/^report /guest /' out; cat log
"#;

/// Disks of every engine on a stock kernel with four CPUs.
#[test]
fn a_guest_has_a_queue_a_cpu_gives_room_back_and_switches_its_cache() {
    let (bench, dir) = (Bench::new(), tempfile::tempdir().unwrap());
    let image = dir.path().join("a.img");
    std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let made = bench.lab.mke2fs().args(["-q", "-t", "ext4"]).arg(&image).status();
    assert!(made.unwrap().success());
    let modules = ["virtio_mmio", "virtio_pci", "virtio_blk", "ext4"];
    let job = bench.job_of(Version::V6_12, USE, &modules, USE_SCRIPT).file(&image, "a.img");
    let out = dir.path().join("out.img");
    let outcome = bench.run(job.output("a.img", &out));
    let text = outcome.text();
    assert_eq!((outcome.code, report(&text, "exit")), (0, Some("0")), "{text}");
    let guest = |name: &str| {
        let prefix = format!("guest {name} ");
        text.lines().find_map(|l| l.trim_end().strip_prefix(prefix.as_str())).unwrap_or("nothing")
    };
    let number = |name: &str| report(&text, name).unwrap_or_else(|| panic!("{name}")).parse::<u64>().unwrap();

    // Queues, the limits of discards and zeros, blocks, cache.
    let limits = format!("{} 4096 {} 512 4096", 1u64 << 30, 16 << 20);
    assert_eq!(guest("vda"), format!("4 {limits} write-back"));
    assert_eq!(guest("vdb"), format!("2 {limits} write-back"));
    assert_eq!(guest("vdc"), format!("1 {limits} write-through"));
    for check in
        ["content_vda0", "content_vda1", "content_vda2", "content_vda3", "content_vdb", "content_vdc"]
    {
        assert_eq!(guest(check), "0", "{check}");
    }
    for check in ["fstrim", "umount", "blkdiscard", "holes"] {
        assert_eq!(guest(check), "0", "{check}");
    }
    assert_eq!((guest("through"), guest("back")), ("write-through write-through", "write-back"));
    assert!(!text.contains("\nwarning ") && !text.contains("guest mount"), "{text}");

    // The same as the host sees it.
    let said = |name: &str| report(&text, name).unwrap_or("nothing");
    assert_eq!((said("a_engine"), said("b_engine"), said("c_engine")), ("io_uring", "threads", "io_uring"));
    assert_eq!((said("a_writeback"), said("c_writeback")), ("false", "true"));
    for disk in ["a", "b", "c"] {
        assert_eq!((number(&format!("{disk}_errors")), number(&format!("{disk}_refused"))), (0, 0), "{disk}");
    }
    assert!(number("a_discards") > 0 && number("b_discards") > 0);
    assert!(number("a_zeroes") > 0, "the kernel has zeros written");
    assert!(number("a_written_bytes") >= 8 << 20);
    assert!(number("room_a") < 2 << 10, "8 MiB were written and given back: {} KiB", number("room_a"));
    assert!((1 << 10..1200).contains(&number("room_b")), "{} KiB", number("room_b"));
    assert!(number("room_c") >= 2 << 10);
    let checked = bench.lab.e2fsck().args(["-f", "-n"]).arg(&out).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}
