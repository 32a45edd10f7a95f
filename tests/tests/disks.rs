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
