//! Stock kernels find virtio devices on PCI as they were built, and use them.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_lab::initramfs::Builder;
use drystone_lab::{Outcome, Progress, Version};
use drystone_tests::{Bench, PATIENT, full, is_known_warning, report};
use std::collections::BTreeMap;
use std::time::Duration;

const MODULES: &[&str] = &["virtio_pci", "virtio_blk", "virtio_rng"];

/// What every guest here does first, and `end`, with which it ends.
const BEGIN: &str = r#"#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
@LOAD_MODULES@
for word in $(cat /proc/cmdline); do case $word in test=*) test=${word#test=};; rounds=*) rounds=${word#rounds=};; esac; done
check() { [ "$2" = "$3" ] && echo "report $1 ok" || echo "report $1 '$2' and not '$3'"; }
appears() { n=0; until [ -b /dev/$1 ] || [ $n = 100 ]; do usleep 50000; n=$((n+1)); done; }
driver=/sys/bus/pci/drivers/virtio-pci
end() {
    dmesg -r | grep '^<[0-4]>' | sed 's/^<[0-9]>\[[ 0-9.]*\] /warning /'
    dmesg | grep -iE 'firmware (bug|info)|acpi.*(error|exception|warning)|bar [0-9].*(failed|no space|can.t)|not reserved|not using (mmconfig|ecam)' | sed 's/^/complaint /'
    echo "report end now"; poweroff -f
}
appears vda
"#;

/// Looks at everything, and uses it.
const LOOK: &str = r#"
[ "$(dd if=/dev/vdb bs=8 count=1 2>/dev/null)" = rebooted ] || { printf rebooted | dd of=/dev/vdb conv=notrunc,fsync 2>/dev/null; echo "report rebooting now"; reboot -f; }
lspci -vvv -n 2>/dev/null | sed 's/^/lspci /'
cpus=$(grep -c ^processor /proc/cpuinfo)
cpu=0; while [ $cpu -lt $cpus ]; do
    taskset $(printf %x $((1<<cpu))) dd if=/dev/vda of=/dev/null iflag=direct bs=4k count=$((20+cpu)) 2>/dev/null; cpu=$((cpu+1))
done
check queues "$(ls /sys/block/vda/mq | wc -l)" $cpus
grep virtio /proc/interrupts | sed 's/^/interrupts /'
check rng "$(dd if=/dev/hwrng bs=64 count=8 2>/dev/null | wc -c)" 512
sum=$(md5sum < /dev/vda); i=0
while [ $i -lt $rounds ]; do
    for f in 0000:00:01.0 0000:00:03.0; do echo $f > $driver/unbind; done
    [ -e /sys/block/vda ] && echo "report unbound vda is still there"
    for f in 0000:00:01.0 0000:00:03.0; do echo $f > $driver/bind; done
    appears vda; [ "$(md5sum < /dev/vda)" = "$sum" ] || echo "report rebound $i differs"
    [ "$(dd if=/dev/hwrng bs=16 count=1 2>/dev/null | wc -c)" = 16 ] || echo "report rebound $i no entropy"
    i=$((i+1))
done
echo "report rounds $i"
# The kernel puts registers and doorbells elsewhere.
f=0000:00:01.0; at() { sed -n '1s/ .*//p' /sys/bus/pci/devices/$f/resource; }
old=$(at); echo 20@$f > /sys/bus/pci/resource_alignment
echo 1 > /sys/bus/pci/devices/$f/remove; echo 1 > /sys/bus/pci/rescan; appears vda
check moved "$(($(at) - old))" $((0x100000))
check moved-content "$(md5sum < /dev/vda)" "$sum"
end
"#;

/// `lspci` in the guest.
fn tools(bench: &Bench) -> impl Fn(Builder) -> Builder {
    let root = bench.lab.package("pciutils", &Progress::stderr()).expect("pciutils");
    move |guest| guest.program("/bin/lspci", &root, "usr/bin/lspci").expect("lspci")
}

fn is_clean(text: &str) {
    let said = |what: &'static str| {
        text.lines().filter_map(move |l| l.trim_end().strip_prefix(what)?.strip_prefix(' '))
    };
    let new: Vec<_> = said("warning").filter(|w| !is_known_warning(w)).collect();
    assert!(new.is_empty(), "new kernel warnings: {new:#?}");
    let complaints: Vec<_> = said("complaint").collect();
    assert!(complaints.is_empty(), "the kernel finds fault: {complaints:#?}");
    assert_eq!(report(text, "end"), Some("now"), "the guest did not come to its end");
}

/// What `lspci -vvv -n` says of a slot.
fn lspci(text: &str, slot: u8) -> Vec<String> {
    let lines = text.lines().filter_map(|l| l.strip_prefix("lspci ")).map(str::trim_end);
    let head = format!("00:{slot:02x}.0 ");
    let from = lines.skip_while(|line| !line.starts_with(&head));
    from.take_while(|line| !line.trim().is_empty()).map(|l| l.trim().to_owned()).collect()
}

/// `lspci` agrees with what was built: a disk with `queues` queues in slot 1, another in slot 2, entropy in slot 3.
fn agrees(text: &str, queues: u16) {
    for (slot, class, device, subsystem, queues, config) in [
        (1, "0100", "1042", "1af4:0042", queues, true),
        (2, "0100", "1042", "1af4:0042", 1, true),
        (3, "ff00", "1044", "1af4:0044", 1, false),
    ] {
        let said = lspci(text, slot);
        let has = |line: &str| assert!(said.iter().any(|l| l.contains(line)), "no {line:?} in {said:#?}");
        has(&format!("00:{slot:02x}.0 {class}: 1af4:{device} (rev 01)"));
        has(&format!("Subsystem: {subsystem}"));
        has("BusMaster+");
        has("Region 0: Memory at ");
        has("(64-bit, prefetchable) [size=16K]");
        has("VirtIO: CommonCfg");
        has("BAR=0 offset=00000000 size=00000040");
        has("VirtIO: ISR");
        has("BAR=0 offset=00000100 size=00000001");
        has("VirtIO: Notify");
        has(&format!(
            "BAR=0 offset=0000{} size={:08x} multiplier=00000004",
            if config { "3000" } else { "2000" },
            4 * queues
        ));
        has("VirtIO: <unknown>");
        has(&format!("MSI-X: Enable+ Count={} Masked-", queues + 1));
        has(&format!("Vector table: BAR=0 offset=0000{}", if config { "2000" } else { "1000" }));
        assert_eq!(said.iter().any(|l| l.contains("VirtIO: DeviceCfg")), config, "{said:#?}");
        assert!(!said.iter().any(|l| l.contains("Interrupt: pin")), "{said:#?}");
    }
    let slots = text.lines().filter(|l| l.starts_with("lspci 00:")).count();
    assert_eq!(slots, 4, "the bridge, and three devices");
}

/// By name of the interrupt, its counts by CPU.
fn interrupts(text: &str) -> BTreeMap<String, Vec<u32>> {
    let mut found = BTreeMap::new();
    for line in text.lines().filter_map(|l| l.strip_prefix("interrupts ")) {
        let words: Vec<_> = line.split_whitespace().collect();
        let counts = words[1..].iter().map_while(|w| w.parse().ok()).collect();
        found.insert(words[words.len() - 1].to_owned(), counts);
    }
    found
}

fn looks(version: Version, cpus: u16) -> Outcome {
    let bench = Bench::new();
    let rounds = if full("a hundred rounds of unbind and bind") { 100 } else { 3 };
    let script = format!(
        "dd if=/dev/urandom of=a.img bs=1024 count=1024 2>/dev/null; dd if=/dev/zero of=b.img bs=1024 count=64 2>/dev/null
         drystone run --kernel vmlinux --initrd guest.cpio --cpus {cpus} --memory 256M --transport pci \
         --disk a.img,queues={cpus} --disk b.img --cmdline 'quiet {PATIENT} rounds={rounds}' < /dev/null"
    );
    let init = format!("{BEGIN}{LOOK}");
    let limit = Duration::from_secs(300 + 30 * rounds);
    let job = bench.job_with(version, &init, MODULES, tools(&bench), &script).time_limit(limit);
    let outcome = bench.run(job);
    assert_eq!(outcome.code, 0);
    let text = outcome.text();
    assert_eq!(report(&text, "rebooting"), Some("now"));
    for name in ["queues", "rng", "moved", "moved-content"] {
        assert_eq!(report(&text, name), Some("ok"), "{name}");
    }
    assert_eq!((report(&text, "unbound"), report(&text, "rebound")), (None, None));
    assert_eq!(report(&text, "rounds"), Some(rounds.to_string().as_str()));
    agrees(&text, cpus);
    is_clean(&text);
    outcome
}

#[test]
fn debian_6_12_finds_what_was_built_and_interrupts_each_cpu_for_its_queue() {
    let text = looks(Version::V6_12, 4).text();
    let all = interrupts(&text);
    let vectors: Vec<_> = all.keys().filter(|name| name.contains("-req")).collect();
    assert!(vectors.len() >= 4, "{all:#?}");
    // Each CPU read by itself, and its queue's interrupt came to it and to no other.
    for cpu in 0..4_usize {
        let counts = &all[&format!("virtio0-req.{cpu}")];
        assert!(counts[cpu] >= 20, "CPU {cpu}: {all:#?}");
        let others: u32 = (0..4).filter(|other| *other != cpu).map(|other| counts[other]).sum();
        assert!(others <= counts[cpu] / 2, "CPU {cpu}: {all:#?}");
    }
}

#[test]
fn debian_6_1_finds_what_was_built() {
    looks(Version::V6_1, 1);
}

/// Reads every disk that appears again and again, unless it is a test of stillness, and says what comes and goes.
const PLUG: &str = r#"
reads() { while dd if=/dev/$1 of=/dev/null bs=64k iflag=direct 2>/dev/null; do :; done; }
reads vda &
echo "report ready now"
known=
while [ -z "$done" ]; do
    for path in /sys/block/vd*; do
        disk=${path##*/}; [ -e $path ] || continue
        case " $known " in *" $disk "*) ;; *)
            serial=$(cat $path/serial 2>/dev/null); [ -b /dev/$disk ] && [ -n "$serial" ] || continue
            known="$known $disk"; [ $disk = vda ] || [ "$test" = still ] || reads $disk &
            [ $serial = finish ] && done=1
            echo "report appeared-$serial $disk";;
        esac
    done
    left=; for disk in $known; do
        [ -e /sys/block/$disk ] && left="$left $disk" || echo "report gone-$disk now"
    done; known=$left
    usleep 20000
done
kill $(jobs -p) 2>/dev/null
check vda "$(dd if=/dev/vda bs=1 count=4 2>/dev/null)" root
echo "report ports $(dmesg | grep -c 'Using configuration type 1')"
end
"#;

/// What the operator does meanwhile. `say` waits until the guest has said something for the nth time.
const OPERATOR: &str = r#"
: > out
run() { drystone run --kernel vmlinux --initrd guest.cpio --cpus 2 --memory 256M --transport pci --id m "$@" --console file:out < /dev/null & pid=$!; }
say() { n=0; until [ "$(grep -c "$1" out)" -ge $2 ] || [ $n = 1200 ]; do usleep 50000; n=$((n+1)); done; [ $n -lt 1200 ] || { echo "report never $1"; cat out; exit 9; }; }
for name in a b c; do dd if=/dev/zero of=$name.img bs=1024 count=1024 2>/dev/null; done
printf root | dd of=a.img conv=notrunc 2>/dev/null
"#;

#[test]
fn disks_come_and_go_under_input_and_output() {
    let bench = Bench::new();
    let rounds = if full("200 rounds of hot plug") { 200 } else { 4 };
    let script = format!(
        r#"{OPERATOR}
run --disk a.img --cmdline 'quiet'; say 'report ready' 1
i=0; while [ $i -lt {rounds} ]; do
    i=$((i+1))
    drystone disk add m b.img,id=b || exit 8
    say 'report appeared-b' $i
    drystone disk remove m b --timeout 5m || exit 7
    say 'report gone-vdb' $i
done
echo "report rounds $i"
drystone disk add m c.img,id=finish
wait $pid; echo "report code $?"; cat out
"#
    );
    let init = format!("{BEGIN}{PLUG}");
    let limit = Duration::from_secs(300 + 30 * rounds);
    let outcome = bench.run(bench.job_of(Version::V6_12, &init, MODULES, &script).time_limit(limit));
    assert_eq!(outcome.code, 0);
    let text = outcome.text();
    assert_eq!(report(&text, "rounds"), Some(rounds.to_string().as_str()));
    assert_eq!((report(&text, "code"), report(&text, "vda")), (Some("0"), Some("ok")));
    is_clean(&text);
}

/// The disk is slow, so that requests are in flight when it is pulled. Its slot is the next one's once the guest has let go of it,
/// and the guest goes on to take disks and to give them back. `ports`: the guest reaches configuration space through those as well.
fn a_disk_is_pulled(version: Version, ports: bool) {
    let bench = Bench::new();
    let script = format!(
        r#"{OPERATOR}
run --disk a.img --disk b.img,id=slow,bandwidth=128K --pci-config-ports {ports} --cmdline 'quiet'; say 'report appeared-slow' 1
drystone disk remove m slow --surprise || exit 7
drystone disk add m b.img,id=other || exit 8
say 'report gone-vdb' 1; say 'report appeared-other' 1
drystone disk add m c.img,id=same || exit 8
say 'report appeared-same' 1
drystone disk remove m other --timeout 5m || exit 7
drystone disk remove m same --timeout 5m || exit 7
echo "report slots" $(drystone events m | sed -n 's/.*disk_added.*, PCI slot \([0-9]*\).*/\1/p' | sort)
drystone disk add m c.img,id=finish
wait $pid; echo "report code $?"; cat out
"#
    );
    let init = format!("{BEGIN}{PLUG}");
    let limit = Duration::from_secs(900);
    let outcome = bench.run(bench.job_of(version, &init, MODULES, &script).time_limit(limit));
    assert_eq!(outcome.code, 0);
    let text = outcome.text();
    assert_eq!(report(&text, "slots"), Some("2 4"), "one is where the one was that was pulled");
    assert_eq!((report(&text, "code"), report(&text, "vda")), (Some("0"), Some("ok")));
    assert_eq!(report(&text, "ports"), Some(if ports { "1" } else { "0" }));
    // Requests fail, as they must.
    let without_errors = |line: &&str| !line.starts_with("warning ") || !line.contains("I/O error, dev vdb");
    is_clean(&text.lines().filter(without_errors).collect::<Vec<_>>().join("\n"));
}

#[test]
fn debian_6_12_goes_on_when_a_disk_was_pulled() {
    a_disk_is_pulled(Version::V6_12, false);
}

#[test]
fn debian_6_1_goes_on_when_a_disk_was_pulled() {
    a_disk_is_pulled(Version::V6_1, true);
}

/// Linux without its driver for hot plug sees nothing, and answers nothing.
#[test]
fn thirty_devices_are_there_and_a_guest_that_does_not_answer_keeps_its_disk() {
    let bench = Bench::new();
    let script = format!(
        r#"{OPERATOR}
disks=; n=1; while [ $n -lt 30 ]; do cp b.img d$n.img; [ $n = 1 ] && cp a.img d1.img; disks="$disks --disk d$n.img"; n=$((n+1)); done
run $disks --cmdline 'quiet acpiphp.disable=1 test=still'; say 'report appeared-' 29
drystone disk remove m disk5 --timeout 2s 2> why && exit 8; cat why
drystone disk remove m disk28 --surprise || exit 7
echo "report asked and pulled"
drystone stop m; wait $pid; cat out
"#
    );
    let limit = Duration::from_secs(900);
    let job = bench.job_of(Version::V6_12, &format!("{BEGIN}{PLUG}"), MODULES, &script).time_limit(limit);
    let outcome = bench.run(job);
    assert_eq!(outcome.code, 0);
    let text = outcome.text();
    assert!(text.contains("has not let go of disk `disk5` in time"), "{text}");
    let found = text.lines().filter(|line| line.starts_with("report appeared-")).count();
    assert_eq!((found, report(&text, "asked")), (29, Some("and pulled")));
}
