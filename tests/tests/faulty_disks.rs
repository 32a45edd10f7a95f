//! A stock kernel on a disk of the host that fails, that is slow, and that stands still: what the guest sees, what the operator hears, and
//! what goes on. The host's device mapper is what fails.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_lab::initramfs::Builder;
use drystone_lab::{Mode, Progress, Version};
use drystone_tests::{Bench, report};
use std::time::Duration;

/// The guest: what the script outside is to do it says with `ask`, and waits for an answer.
const INIT: &str = r#"#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
stty -echo
@LOAD_MODULES@
n=0; until [ -b /dev/vda ] || [ $n = 100 ]; do usleep 100000; n=$((n+1)); done
ask() { echo "ask $1"; read -r answer; }
echo "report queues $(ls /sys/block/vda/mq | wc -l)"
content() { taskset 1 dd if=/dev/vda bs=4k count=256 iflag=direct 2>/dev/null | md5sum; }
sum=$(content)
# From one CPU, and so through one queue, what the host cannot read; meanwhile from the other what it can.
(n=0; while [ ! -e /tmp/stop ]; do [ "$(content)" = "$sum" ] || echo "report differs $n"; n=$((n+1)); done; echo "report good $n"; touch /tmp/stopped) &
i=0; while [ $i -lt 20 ]; do
    taskset 2 dd if=/dev/vda of=/dev/null bs=4k skip=$((1024 + i)) count=1 iflag=direct 2>/tmp/why && echo "report read $i"
    i=$((i+1))
done
echo "report why $(grep -o 'Input/output error\|I/O error' /tmp/why | head -n 1)"
touch /tmp/stop; until [ -e /tmp/stopped ]; do usleep 100000; done
write() { dd if=/dev/urandom of=/dev/vda bs=4k seek=$1 count=1 oflag=direct conv=notrunc 2>/dev/null; }
ask slow; write 300; echo "report slow $?"
ask still; (write 301; echo "report hung $?"; touch /tmp/hung) & ask look
until [ -e /tmp/hung ]; do usleep 100000; done
ask flaky; write 302; echo "report flaky $?"; [ "$(content)" = "$sum" ]; echo "report reads $?"
ask sound; write 302; echo "report sound $?"; [ "$(content)" = "$sum" ]; echo "report again $?"
poweroff -f
"#;

const SCRIPT: &str = r#"
ln -s $PWD/dm /dm; for module in dm/modules/*.ko; do insmod $module; done
export DM_DISABLE_UDEV=1; dm() { dm/bin/dmsetup "$@" || echo "report failed dmsetup $*"; }
dd if=/dev/urandom of=disk bs=64k count=64 2>/dev/null; truncate -s 8M disk
losetup /dev/loop7 disk
# The second half cannot be read or written.
half() { printf '0 8192 %s\n8192 8192 error\n' "$1"; }
table() { half "$1" > table; dm suspend disk; dm load disk table; dm resume disk; }
half "linear /dev/loop7 0" > table; dm create disk table
errors() { echo "report errors_$1 $(drystone metrics d block.bad.errors | sed 's/.* //')"; }
mkfifo in; exec 9<>in
drystone run --id d --kernel vmlinux --initrd guest.cpio --memory 128M --cpus 2 --cmdline quiet --log-file log \
    --disk path=/dev/mapper/disk,id=bad,queues=2,engine=io_uring,direct < in > out & pid=$!
answered=0; n=0
while kill -0 $pid 2>/dev/null; do
    asked=$(grep -c '^ask ' out)
    if [ $asked -gt $answered ]; then
        what=$(grep '^ask ' out | tail -n 1 | tr -d '\r')
        case ${what#ask } in
        slow) table "delay /dev/loop7 0 200";;
        still) dm suspend --noflush --nolockfs disk;;
        look)
            n=0; until drystone metrics d block.bad.in_flight | grep -q ' [1-9]'; do n=$((n+1)); [ $n -lt 600 ] || { echo TIMEOUT; exit 99; }; done
            drystone pause d 2> refused; echo "report pause $?"; echo "report refused $(cat refused)"
            drystone info d | grep -q 'state    running'; echo "report running $?"
            dm resume disk
            until drystone pause d 2>/dev/null; do usleep 100000; done
            drystone resume d; echo "report resumed $?";;
        flaky) errors read; table "flakey /dev/loop7 0 0 60 1 error_writes";;
        sound) errors written; table "linear /dev/loop7 0";;
        esac
        answered=$asked; echo go > in
    fi
    usleep 200000; n=$((n+1)); [ $n -lt 3000 ] || { echo TIMEOUT; cat out log; exit 99; }
done
wait $pid; echo "report exit $?"
echo "report told $(grep -c 'block.bad: read: Input/output error' log) $(grep -c 'cannot pause: block.bad: .*not finished in time' log)"
cat out; cat log >&2
dm remove disk; losetup -d /dev/loop7
"#;

#[test]
fn a_host_that_fails_is_slow_or_stands_still_costs_no_more_than_what_it_fails() {
    let bench = Bench::new();
    if bench.lab.mode() == Mode::Direct {
        eprintln!("NOT RUN: devices of the host's device mapper are made in the lab's own machine only");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let package = bench.lab.package("dmsetup", &Progress::stderr()).expect("dmsetup");
    let tools = Builder::new().program("/dm/bin/dmsetup", &package, "usr/sbin/dmsetup").expect("dmsetup");
    tools.unpack("/dm", dir.path()).unwrap();
    let modules =
        Builder::new().modules(bench.lab.kernel(Version::V6_12), &["dm_mod", "dm_flakey", "dm_delay"]);
    std::fs::create_dir(dir.path().join("modules")).unwrap();
    modules.unwrap().unpack("/modules", &dir.path().join("modules")).unwrap();
    let job = bench.job_of(Version::V6_12, INIT, &["virtio_pci", "virtio_blk"], SCRIPT);
    let outcome = bench.run(job.file(dir.path(), "dm").time_limit(Duration::from_secs(1800)));
    let text = outcome.text();
    let said = |name: &str| report(&text, name).unwrap_or("nothing");
    assert_eq!((outcome.code, said("exit"), said("failed"), said("queues")), (0, "0", "nothing", "2"));
    // What the host cannot read the guest is told, and everything else it can read meanwhile.
    assert_eq!((said("read"), said("differs")), ("nothing", "nothing"));
    assert!(said("why").ends_with("error") && said("good").parse::<u32>().unwrap() > 0);
    // Slow is no error. What stands still keeps the machine from pausing, and from nothing else.
    assert_eq!(
        (said("slow"), said("pause"), said("running"), said("resumed"), said("hung")),
        ("0", "1", "0", "0", "0")
    );
    assert!(said("refused").contains("block.bad"), "{}", said("refused"));
    assert_eq!((said("flaky"), said("reads"), said("sound"), said("again")), ("1", "0", "0", "0"));
    // The operator hears of each of them.
    let told: Vec<u32> = said("told").split(' ').map(|n| n.parse().unwrap()).collect();
    assert!(told.iter().all(|n| *n > 0), "{told:?}");
    let errors = |name: &str| said(name).parse::<u32>().unwrap();
    assert!(errors("errors_read") >= 20 && errors("errors_written") > errors("errors_read"));
}
