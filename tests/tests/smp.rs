//! Stock kernels on one to thirty-two vCPUs: they find the processors that were asked for, find nothing wrong with them, and
//! stand still and go on as often as somebody wants.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_lab::initramfs::Builder;
use drystone_lab::{Outcome, Version};
use drystone_tests::{Bench, PATIENT, full, report};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Many vCPUs are slow on few processors, and the host may be busy.
fn time_limit() -> Duration {
    Duration::from_secs(if std::env::var_os("DRYSTONE_FULL").is_some() { 3600 } else { 600 })
}

const INIT: &str = include_str!("smp/init.sh");

/// Flags, and sockets, cores, threads that the guest must find.
type Shape = (&'static str, [u32; 3]);

/// Runs `script` in the lab; it finds `smp.cpio` beside the kernel and `drystone`.
fn run(version: Version, script: &str) -> Outcome {
    let bench = Bench::new();
    let dir = tempfile::tempdir().unwrap();
    let initrd = dir.path().join("smp.cpio");
    let guest = Builder::new().busybox(bench.lab.busybox()).unwrap().init(INIT);
    with_lscpu(guest).write_to(&initrd).unwrap();
    let outcome = bench.run(bench.job(version, script).file(&initrd, "smp.cpio").time_limit(time_limit()));
    assert_eq!(outcome.code, 0);
    outcome
}

/// Adds this machine's `lscpu` and its libraries, if it has one.
fn with_lscpu(guest: Builder) -> Builder {
    const LSCPU: &str = "/usr/bin/lscpu";
    let Some(libraries) = Command::new("ldd").arg(LSCPU).output().ok().filter(|o| o.status.success()) else {
        eprintln!("NOT CHECKED: there is no {LSCPU} here to put into the guest");
        return guest;
    };
    let text = String::from_utf8(libraries.stdout).unwrap();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    let guest = guest.copy("bin/lscpu", Path::new(LSCPU)).unwrap();
    paths.fold(guest, |guest, path| guest.copy(path.trim_start_matches('/'), Path::new(path)).unwrap())
}

/// A machine for each shape, one after the other; what each says is between lines `=== N` and the next.
fn boots(version: Version, shapes: &[Shape]) {
    let mut script = String::new();
    for (n, (flags, _)) in shapes.iter().enumerate() {
        writeln!(
            script,
            "echo '=== {n}'; drystone run --kernel vmlinux --initrd smp.cpio --memory 512M --cmdline 'quiet {PATIENT}' {flags} < /dev/null || exit 9"
        )
        .unwrap();
    }
    let text = run(version, &script).text();
    let guests: Vec<_> = text.split("=== ").skip(1).collect();
    assert_eq!(guests.len(), shapes.len());
    for ((flags, shape), guest) in shapes.iter().zip(guests) {
        check(flags, *shape, guest);
    }
}

/// The guest is as asked, and complains of nothing.
fn check(flags: &str, [sockets, cores, threads]: [u32; 3], text: &str) {
    let vcpus = sockets * cores * threads;
    let value = |name: &str| report(text, name).unwrap_or_else(|| panic!("{flags}: no report of {name}"));
    assert_eq!(value("cpuinfo"), vcpus.to_string(), "{flags}");
    let online = if vcpus == 1 { "0".into() } else { format!("0-{}", vcpus - 1) };
    assert_eq!(value("online"), online, "{flags}");
    for n in 0..vcpus {
        let core = n / threads;
        let list = |size: u32| {
            let first = n / size * size;
            if size == 1 { first.to_string() } else { format!("{first}-{}", first + size - 1) }
        };
        let place = value(&format!("place{n}"));
        let (socket, core) = (core / cores, core % cores);
        assert_eq!(
            place,
            format!("{socket} {core} {} {}", list(threads), list(cores * threads)),
            "{flags}: CPU {n}"
        );
    }
    lscpu(flags, [sockets, cores, threads], text);
    every_cpu_was_interrupted(flags, vcpus, text);
    assert_eq!(value("clocksource"), "kvm-clock", "{flags}");
    let memory: u64 = value("memory_kib").parse().unwrap();
    assert!((448 << 10..512 << 10).contains(&memory), "{flags}: {memory} KiB of 524288");
    if vcpus > 1 {
        // It is done through the area in which the hypervisor counts stolen time.
        assert!(text.contains("KVM setup pv remote TLB flush"), "{flags}: no steal time");
    }
    for complaint in ["complaint ", "error "] {
        let said: Vec<_> = text.lines().filter(|l| l.starts_with(complaint)).collect();
        assert!(said.is_empty(), "{flags}: {said:#?}");
    }
    value("done");
}

fn lscpu(flags: &str, [sockets, cores, threads]: [u32; 3], text: &str) {
    let said: Vec<_> = text.lines().filter_map(|l| l.trim_end().strip_prefix("report lscpu ")).collect();
    if said.is_empty() {
        return;
    }
    let expected = [
        format!("CPU(s): {}", sockets * cores * threads),
        "Hypervisor vendor: KVM".into(),
        "Virtualization type: full".into(),
        format!("Thread(s) per core: {threads}"),
        format!("Core(s) per socket: {cores}"),
        format!("Socket(s): {sockets}"),
    ];
    for line in &expected {
        assert!(said.contains(&line.as_str()), "{flags}: {line} is not in {said:#?}");
    }
}

/// `interrupts LOC: 12 34 Local timer interrupts`: one column a CPU.
fn columns(text: &str, prefix: &str, kind: &str, vcpus: u32) -> Vec<u64> {
    let start = format!("{prefix} {kind}:");
    let line = text.lines().find_map(|l| l.strip_prefix(&start)).unwrap_or_else(|| panic!("no {start}"));
    line.split_whitespace().take(vcpus as usize).map(|n| n.parse().unwrap()).collect()
}

fn every_cpu_was_interrupted(flags: &str, vcpus: u32, text: &str) {
    let timer = columns(text, "interrupts", "LOC", vcpus);
    assert!(timer.len() == vcpus as usize && timer.iter().all(|n| *n > 0), "{flags}: timer {timer:?}");
    if vcpus > 1 {
        let [wakes, calls, flushes] =
            ["RES", "CAL", "TLB"].map(|kind| columns(text, "interrupts", kind, vcpus));
        let each = |n: usize| wakes[n] + calls[n] + flushes[n];
        let sums: Vec<_> = (0..vcpus as usize).map(each).collect();
        assert!(sums.iter().all(|n| *n > 0), "{flags}: interrupts from other CPUs {sums:?}");
    }
}

const SHAPES: [Shape; 3] =
    [("--cpus 1", [1, 1, 1]), ("--cpus 2,threads=2", [1, 1, 2]), ("--cpus 4,sockets=2", [2, 2, 1])];
const LARGE: [Shape; 4] = [
    ("--cpus 8,sockets=2,cores=2,threads=2", [2, 2, 2]),
    ("--cpus 6,cores=3,threads=1", [2, 3, 1]),
    ("--cpus 4 --cpu-model x86-64-v2", [1, 4, 1]),
    ("--cpus 32,sockets=2,threads=2", [2, 8, 2]),
];

#[test]
fn debian_6_1_finds_what_was_asked_for() {
    boots(Version::V6_1, &SHAPES);
}

#[test]
fn debian_6_12_finds_what_was_asked_for() {
    boots(Version::V6_12, &SHAPES);
}

#[test]
fn debian_6_1_up_to_thirty_two() {
    if full("many vCPUs take minutes here") {
        boots(Version::V6_1, &LARGE);
    }
}

#[test]
fn debian_6_12_up_to_thirty_two() {
    if full("many vCPUs take minutes here") {
        boots(Version::V6_12, &LARGE);
    }
}

/// Pauses and resumes four busy vCPUs through the socket for a while.
const PAUSES: &str = r#"
mkfifo keys; (exec 3<>keys; drystone run --id load --kernel vmlinux --initrd smp.cpio --memory 512M --cpus 4 \
    --cmdline "quiet PATIENT test=load" <&3 > load.out) & pid=$!
n=0; until grep -q '^count 2' load.out 2>/dev/null; do usleep 100000; n=$((n+1)); [ $n -lt 3000 ] || { cat load.out; exit 99; }; done
until_s=$(($(date +%s) + SECONDS_OF_PAUSES)); pauses=0
while [ $pauses -lt 5 ] || [ $(date +%s) -lt $until_s ]; do
    drystone pause load || exit 97
    pauses=$((pauses+1))
    drystone resume load || exit 96
    usleep 30000
done
echo "report pauses $pauses"
echo "report state $(drystone info load | sed -n 's/^state *//p')"
a=$(grep -c ^count load.out); n=0
until [ $(grep -c ^count load.out) -gt $((a+2)) ]; do usleep 100000; n=$((n+1)); [ $n -lt 3000 ] || { cat load.out; exit 99; }; done
drystone info load | grep -E '^(exits|msrs)'
echo end > keys; wait $pid; echo "report exit $?"; sed 's/^report /guest /' load.out
"#;

#[test]
fn vcpus_run_where_they_may() {
    let script = r#"
mkfifo keys; (exec 3<>keys; drystone run --id a --cpus 4 --memory 64M --cpu-affinity 0-2=0,3=0-1 <&3 > out) & pid=$!
tasks() { cat /proc/$(cat run/a/pid)/task/*/comm; }
n=0; until tasks 2>/dev/null | grep -q vcpu3; do usleep 100000; n=$((n+1)); [ $n -lt 600 ] || { cat out; exit 99; }; done
for t in /proc/$(cat run/a/pid)/task/*; do
    case $(cat $t/comm) in vcpu*) echo "report $(cat $t/comm) $(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' $t/status)";; esac
done
drystone stop a; wait $pid
"#;
    let bench = Bench::new();
    let text = bench.run(bench.job(Version::V6_12, script).processors(2)).text();
    let places = ["vcpu0", "vcpu1", "vcpu2", "vcpu3"].map(|name| report(&text, name));
    assert_eq!(places, [Some("0"), Some("0"), Some("0"), Some("0-1")]);
}

#[test]
fn four_busy_vcpus_stand_still_and_go_on() {
    let seconds = if full("a minute of pauses of busy vCPUs, else ten seconds") { "60" } else { "10" };
    let script = PAUSES.replace("SECONDS_OF_PAUSES", seconds).replace("PATIENT", PATIENT);
    let text = run(Version::V6_12, &script).text();
    let value = |name: &str| report(&text, name).unwrap_or_else(|| panic!("no report of {name}"));
    assert!(value("pauses").parse::<u32>().unwrap() >= 5, "it was paused {} times", value("pauses"));
    assert_eq!((value("state"), value("exit")), ("running", "0"));
    let said: Vec<_> = text.lines().filter(|l| l.starts_with("complaint ")).collect();
    assert!(said.is_empty(), "{said:#?}");
    let steal = text.lines().find_map(|l| l.trim_end().strip_prefix("guest steal ")).expect("stolen time");
    assert!(steal.parse::<u64>().unwrap() > 0, "four busy vCPUs share a processor or two");
    assert!(columns(&text, "after", "LOC", 4).iter().all(|n| *n > 0));
}
