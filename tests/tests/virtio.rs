//! Stock kernels run from a virtio disk and read virtio entropy, over virtio-mmio and virtio-pci.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_lab::{Job, Version};
use drystone_tests::{Bench, PATIENT, is_known_warning, report};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const MODULES: &[&str] = &["virtio_mmio", "virtio_pci", "virtio_blk", "virtio_rng", "ext4"];

/// Goes on from the root disk.
const INITRAMFS: &str = r#"#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
@LOAD_MODULES@
n=0; until [ -b /dev/vda ] || [ $n = 50 ]; do usleep 100000; n=$((n+1)); done
mkdir -p /mnt; mount -t ext4 /dev/vda /mnt || { echo "report mount failed"; poweroff -f; }
mount --move /dev /mnt/dev; mount --move /proc /mnt/proc; mount --move /sys /mnt/sys
exec switch_root /mnt /init
"#;

/// The first program on the root disk.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
for word in $(cat /proc/cmdline); do case $word in test=*) test=${word#test=};; rounds=*) rounds=${word#rounds=};; esac; done
echo "report root $(awk '$2 == "/" && $1 != "rootfs" { print $1, $3, substr($4, 1, 2) }' /proc/mounts)"
end() {
    dmesg -r | grep '^<[0-4]>' | sed 's/^<[0-9]>\[[ 0-9.]*\] /warning /'
    sync; mount -o remount,ro /; echo "report end $?"; poweroff -f
}
check() { [ "$2" = "$3" ] && echo "report $1 ok" || echo "report $1 '$2' and not '$3'"; }
case $test in
use)
    check serial "$(cat /sys/block/vda/serial)" ROOT-1
    check size "$(cat /sys/block/vdb/size)" 128
    check readonly "$(cat /sys/block/vdc/ro)" 1
    check refused "$(echo x | dd of=/dev/vdc 2>/dev/null; echo $?)" 1
    check content "$(md5sum < /dev/vdc)" "$(cat /vdc.md5)"
    check queues "$(ls /sys/block/vda/mq | wc -l)" "$(grep -c ^processor /proc/cpuinfo)"
    dd if=/dev/urandom of=/data bs=64k count=16 2>/dev/null; sync
    sum=$(md5sum < /data); echo "$sum" > /data.md5; echo 3 > /proc/sys/vm/drop_caches
    check data "$(md5sum < /data)" "$sum"
    check hwrng "$(dd if=/dev/hwrng bs=64 count=8 2>/dev/null | wc -c)" 512
    check rng "$(cut -d. -f1 /sys/class/misc/hw_random/rng_current)" virtio_rng
    disk=$(basename $(readlink -f /sys/block/vdb/device)); rng=$(basename /sys/bus/virtio/drivers/virtio_rng/virtio*)
    zeros=$(md5sum < /dev/vdb); i=0
    while [ $i -lt $rounds ]; do
        echo $disk > /sys/bus/virtio/drivers/virtio_blk/unbind; echo $rng > /sys/bus/virtio/drivers/virtio_rng/unbind
        [ -e /sys/block/vdb ] && echo "report unbound vdb is still there"
        echo $disk > /sys/bus/virtio/drivers/virtio_blk/bind; echo $rng > /sys/bus/virtio/drivers/virtio_rng/bind
        [ "$(md5sum < /dev/vdb)" = "$zeros" ] || echo "report rebound $i differs"
        [ "$(dd if=/dev/hwrng bs=16 count=1 2>/dev/null | wc -c)" = 16 ] || echo "report rebound $i no entropy"
        i=$((i+1))
    done
    echo "report rounds $i"
    end;;
flush)
    i=0; while :; do
        i=$((i+1)); echo $i | dd of=/file conv=fsync 2>/dev/null
        printf '%08d' $i | dd of=/dev/vdb bs=512 seek=$((i % 128)) conv=notrunc,fsync 2>/dev/null && echo "flushed $i"
    done;;
look) echo "report file $(cat /file)"; end;;
esac
"#;

/// The disks of a guest, made on this machine.
struct Disks {
    dir: TempDir,
}

impl Disks {
    fn new(bench: &Bench) -> Self {
        let dir = TempDir::new().unwrap();
        let disks = Self { dir };
        let root = disks.dir.path().join("root");
        for name in ["bin", "dev", "proc", "sys", "tmp"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::copy(bench.lab.busybox(), root.join("bin/busybox")).unwrap();
        write_program(&root.join("init"), INIT);
        let readonly: Vec<u8> = (0..65536u32).map(|i| (i * 13 + i / 512) as u8).collect();
        std::fs::write(disks.path("vdc.img"), &readonly).unwrap();
        std::fs::write(root.join("vdc.md5"), md5(bench, &disks.path("vdc.img"))).unwrap();
        File::create(disks.path("vdb.img")).unwrap().set_len(64 << 10).unwrap();
        let image = disks.path("root.img");
        File::create(&image).unwrap().set_len(24 << 20).unwrap();
        let made =
            bench.lab.mke2fs().args(["-q", "-t", "ext4", "-d"]).arg(&root).arg(&image).status().unwrap();
        assert!(made.success());
        disks
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn give(&self, mut job: Job) -> Job {
        for name in ["root.img", "vdb.img", "vdc.img"] {
            job = job.file(self.path(name), name);
        }
        job
    }
}

fn write_program(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// As busybox says it.
fn md5(bench: &Bench, path: &Path) -> Vec<u8> {
    let mut command = std::process::Command::new(bench.lab.busybox());
    command.arg("md5sum").stdin(File::open(path).unwrap()).output().unwrap().stdout
}

fn check_file_system(bench: &Bench, image: &Path) {
    let output = bench.lab.e2fsck().args(["-f", "-n"]).arg(image).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
}

/// Once for each number of CPUs and transport.
fn use_disks(version: Version, machines: &[(u32, &str)]) {
    let full = std::env::var_os("DRYSTONE_FULL").is_some();
    let rounds = if full { 100 } else { 10 / machines.len() };
    let (bench, out) = (Bench::new(), TempDir::new().unwrap());
    let disks = Disks::new(&bench);
    let mut script = String::new();
    for (n, transport) in machines {
        script += &format!(
            "cp root.img root{n}.img; drystone run --kernel vmlinux --initrd guest.cpio --cpus {n} --memory 256M \
             --transport {transport} \
             --disk root{n}.img,serial=ROOT-1,queues={n} --disk vdb.img --disk path=vdc.img,readonly \
             --cmdline 'quiet {PATIENT} test=use rounds={rounds}' < /dev/null || exit 9\n"
        );
    }
    let limit = Duration::from_secs(300 + 30 * (rounds * machines.len()) as u64);
    let mut job = disks.give(bench.job_of(version, INITRAMFS, MODULES, &script).time_limit(limit));
    for (n, _) in machines {
        job = job.output(format!("root{n}.img"), out.path().join(format!("root{n}.img")));
    }
    let outcome = bench.run(job);
    assert_eq!(outcome.code, 0);
    let text = outcome.text();
    for name in ["serial", "size", "readonly", "refused", "content", "queues", "data", "hwrng", "rng"] {
        let said: Vec<_> = reports(&text, name).collect();
        assert_eq!(said, vec!["ok"; machines.len()], "{name}");
    }
    assert_eq!(report(&text, "root"), Some("/dev/vda ext4 rw"));
    assert_eq!((report(&text, "unbound"), report(&text, "rebound")), (None, None));
    assert_eq!(reports(&text, "rounds").collect::<Vec<_>>(), vec![rounds.to_string(); machines.len()]);
    let warnings = text.lines().filter_map(|l| l.trim_end().strip_prefix("warning "));
    let new: Vec<_> = warnings.filter(|w| !is_known_warning(w)).collect();
    assert!(new.is_empty(), "new kernel warnings: {new:#?}");
    for (n, _) in machines {
        check_file_system(&bench, &out.path().join(format!("root{n}.img")));
    }
}

fn reports<'a>(text: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let prefix = format!("report {name} ");
    text.lines().filter_map(move |line| line.trim_end().strip_prefix(prefix.as_str()))
}

#[test]
fn debian_6_12_runs_from_a_disk_on_one_and_four_cpus() {
    use_disks(Version::V6_12, &[(1, "mmio"), (4, "pci")]);
}

#[test]
fn debian_6_1_runs_from_a_disk() {
    use_disks(Version::V6_1, &[(1, "pci")]);
}

/// What the guest was told is on the disk is there, although the machine was killed.
#[test]
fn nothing_that_was_flushed_is_lost_when_the_machine_is_killed() {
    let (bench, out) = (Bench::new(), TempDir::new().unwrap());
    let disks = Disks::new(&bench);
    let script = r#"
run() { drystone run --kernel vmlinux --initrd guest.cpio --memory 256M --disk root.img --disk vdb.img "$@" < /dev/null; }
run --console file:out --cmdline 'quiet test=flush' & pid=$!
n=0; until [ "$(grep -c ^flushed out)" -ge 20 ] || [ $n = 1200 ]; do usleep 100000; n=$((n+1)); done
kill -9 $(pidof drystone); wait $pid; echo "report killed $?"
last=$(grep ^flushed out | tail -n 1 | tr -dc 0-9); echo "report flushed $last"
i=1; while [ $i -le $last ]; do
    [ "$(dd if=vdb.img bs=512 skip=$((i % 128)) count=1 2>/dev/null | head -c 8)" = "$(printf %08d $i)" ] || echo "report lost $i"
    i=$((i+1))
done
run --cmdline 'quiet test=look'
"#;
    let job = disks.give(bench.job_of(Version::V6_12, INITRAMFS, MODULES, script));
    let outcome = bench.run(job.output("root.img", out.path().join("root.img")));
    let text = outcome.text();
    let number = |name: &str| report(&text, name).unwrap().parse::<u32>().unwrap();
    assert_eq!((outcome.code, report(&text, "lost")), (0, None));
    assert!((20..128).contains(&number("flushed")), "more would have overwritten what is looked at");
    assert!(number("file") >= number("flushed"), "the file system has lost what it had synced");
    check_file_system(&bench, &out.path().join("root.img"));
}
