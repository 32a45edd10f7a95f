//! Stock Debian kernels, entered by every protocol they take, with RAM on both sides of the device window.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_lab::Version;
use drystone_tests::{Bench, PATIENT, full, report};
use std::time::Duration;

/// `guest NAME FLAGS…` runs a guest until it has said everything, and says how it is doing meanwhile.
const PRELUDE: &str = r#"
kernel=vmlinux
guest() { name=$1; shift
    drystone run --id $name --kernel $kernel --console file:$name.out --log-file $name.log "$@" < /dev/null & pid=$!
    n=0; until grep -qE '^(report done|.*Unable to mount root)' $name.out 2>/dev/null; do
        kill -0 $pid || break; usleep 100000; n=$((n+1)); [ $n -lt 9000 ] || break; done
    drystone info $name | sed -n 's/^kernel *.* entered by the \(.*\) protocol/report protocol \1/p; s/^exits *\(.*\) \(.*\)/exits \2/p'
    drystone stop $name; wait $pid; echo "report exit $?"; cat $name.out; echo; echo "end of $name"; }
"#;

/// How Linux was entered, as its `bootloader_type` tells: a loader without a number, or PVH without Xen.
const LINUX: &str = "255";
const PVH: &str = "176";

struct Case {
    name: &'static str,
    /// Bytes of RAM.
    memory: u64,
    protocol: &'static str,
    loader: &'static str,
    cpus: u32,
}

const GIB: u64 = 1 << 30;

impl Case {
    fn line(&self) -> String {
        let Self { name, memory, protocol, cpus, .. } = self;
        format!(
            "guest {name} --memory {memory} --boot-protocol {protocol} --cpus {cpus} --initrd guest.cpio --cmdline \
             'quiet {PATIENT} test=count'\n"
        )
    }

    /// What the guest knows of its RAM is what it was given.
    fn check(&self, text: &str) {
        let text = text.split(&format!("end of {}", self.name)).next().unwrap();
        let text = text.rsplit("\nend of ").next().unwrap();
        assert_eq!(report(text, "exit"), Some("0"), "{}", self.name);
        let protocol = if self.loader == PVH { "pvh" } else { "linux" };
        assert_eq!(report(text, "protocol"), Some(protocol), "{}", self.name);
        assert_eq!(report(text, "loader"), Some(self.loader), "{}", self.name);
        assert_eq!(report(text, "cpus"), Some(self.cpus.to_string().as_str()), "{}", self.name);
        let ranges: Vec<(u64, u64)> = text.lines().filter_map(range).collect();
        let low_end = self.memory.min(3 * GIB);
        // The kernel keeps the first page for itself.
        let mut expected = vec![(0x1000, 0x9_fbff), (0x10_0000, low_end - 1)];
        if self.memory > 3 * GIB {
            expected.push((4 * GIB, 4 * GIB + (self.memory - 3 * GIB) - 1));
        }
        assert_eq!(ranges, expected, "{}", self.name);
        let total: u64 = report(text, "memory_kib").unwrap().parse().unwrap();
        let given = self.memory >> 10;
        // Code, early tables and what describes each page: a quarter of little, some hundredths of much.
        let kept = (64 << 10) + given / 25;
        assert!(total < given && total + kept > given, "{}: {total} KiB of {given}", self.name);
    }
}

/// A line of /proc/iomem as the guest reports it: first and last address.
fn range(line: &str) -> Option<(u64, u64)> {
    let (first, last) = line.trim_end().strip_prefix("iomem ")?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(first)?, number(last)?))
}

fn exits(text: &str, name: &str) -> u64 {
    let text = text.split(&format!("end of {name}")).next().unwrap();
    let text = text.rsplit("\nend of ").next().unwrap();
    text.lines().filter_map(|l| l.trim_end().strip_prefix("exits ")?.parse::<u64>().ok()).sum()
}

/// For what hangs: the host may be busy.
const TIME: Duration = Duration::from_secs(1800);

fn run(version: Version, cases: &[Case], further: &str) -> String {
    run_in(2 * GIB, version, cases, further)
}

/// Runs them, and what `further` says, in an emulated machine with that much memory.
fn run_in(memory: u64, version: Version, cases: &[Case], further: &str) -> String {
    let bench = Bench::new();
    let script: String = cases.iter().map(Case::line).collect();
    let job = bench.job(version, &format!("{PRELUDE}{script}{further}")).time_limit(TIME).memory(memory);
    let outcome = bench.run(job);
    assert_eq!(outcome.code, 0);
    let text = format!("\n{}", outcome.text());
    cases.iter().for_each(|case| case.check(&text));
    text
}

/// Its name says that it is an ELF, its content that it is a bzImage.
const MISNAMED: &str = "cp bzImage kernel.elf; kernel=kernel.elf\n";

#[test]
fn by_pvh_around_the_device_window_and_by_content_without_an_initrd() {
    let case = Case { name: "both", memory: 5 * GIB, protocol: "pvh", loader: PVH, cpus: 2 };
    let text = run(Version::V6_12, &[case], &format!("{MISNAMED}guest bare --memory 96M --cmdline quiet\n"));
    let bare = text.split("end of both").nth(1).unwrap();
    assert_eq!(report(bare, "protocol"), Some("linux"));
    assert!(bare.contains("Unable to mount root"), "without an initrd the kernel looks for a disk");
}

#[test]
fn every_protocol_around_the_device_window_with_and_without_an_initrd() {
    if !full("seven boots take minutes") {
        return;
    }
    let case = |name, memory, protocol, loader| Case { name, memory, protocol, loader, cpus: 1 };
    let cases = [
        case("auto", 256 << 20, "auto", LINUX),
        case("pvh", 256 << 20, "pvh", PVH),
        // Its image alone takes 66 MiB, and in 64 MiB the other kernel runs out of memory before its init.
        case("small", 96 << 20, "pvh", PVH),
        case("edge", 3 * GIB, "linux", LINUX),
        case("over", 3 * GIB + 4096, "pvh", PVH),
        case("both", 5 * GIB, "linux", LINUX),
    ];
    let text = run(Version::V6_12, &cases, "guest bare --memory 96M --boot-protocol pvh --cmdline quiet\n");
    assert!(text.contains("Unable to mount root"), "without an initrd the kernel looks for a disk");
    // What `auto` takes for a kernel that can do both is no detour.
    let (linux, pvh) = (exits(&text, "auto"), exits(&text, "pvh"));
    println!("exits to init: {linux} by the Linux protocol, {pvh} by PVH");
    assert!(linux > 0 && pvh > 0);
}

#[test]
fn debian_6_1_by_pvh_in_little_and_on_two_cpus() {
    if !full("another kernel by another protocol") {
        return;
    }
    let case = |name, memory, cpus| Case { name, memory, protocol: "pvh", loader: PVH, cpus };
    run(Version::V6_1, &[case("small", 96 << 20, 1), case("both", 5 * GIB, 2)], "");
}

#[test]
fn as_much_as_is_promised() {
    if !full("a guest of 64 GiB touches a GiB to describe its pages") {
        return;
    }
    let case = |name, protocol, loader| Case { name, memory: 64 * GIB, protocol, loader, cpus: 2 };
    run_in(4 * GIB, Version::V6_12, &[case("linux", "linux", LINUX), case("pvh", "pvh", PVH)], "");
    run_in(4 * GIB, Version::V6_1, &[case("linux", "linux", LINUX)], "");
}
