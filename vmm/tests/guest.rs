//! The guest that is built in, on the real `/dev/kvm`, as a person sees it on a terminal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod common;

use common::{Session, drystone, has_kvm, is_raw, wait_until};
use std::path::Path;
use std::time::{Duration, Instant};

/// Runs it, up to the first prompt; returns what it says by itself.
fn run(runtime: &Path, args: &[&str]) -> (Session, String) {
    let mut session = Session::open(drystone(runtime, &[&["run"], args].concat()));
    wait_until("raw mode", || is_raw(&session.tty));
    let said = session.read_to("\r\n> ");
    (session, said)
}

/// Types a line, and returns the answer.
fn ask(session: &mut Session, line: &str) -> String {
    session.type_in(format!("{line}\r").as_bytes());
    let answer = session.read_to("\r\n> ");
    // The line is shown as it is typed.
    answer.strip_prefix(&format!("{line}\r\n")).unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

fn has_line(text: &str, words: &[&str]) -> bool {
    text.lines().any(|line| line.split_whitespace().collect::<Vec<_>>().starts_with(words))
}

#[test]
fn it_says_what_was_configured_answers_lines_and_powers_off() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let initrd = dir.path().join(".initrd");
    std::fs::write(&initrd, [7; 12345]).unwrap();
    let initrd = initrd.to_str().unwrap();
    let args = ["--cpus", "2", "--memory", "128M", "--cmdline", "a=b c", "--initrd", initrd, "--id", "small"];
    let (mut session, said) = run(dir.path(), &args);
    for words in [
        &["processors", "2"][..],
        &["memory", "128", "MiB,", "of", "which", "130687", "KiB"],
        &["0x000000000000..0x00000009fc00", "639", "KiB", "RAM"],
        &["0x000000100000..0x000008000000", "127", "MiB", "RAM"],
        &["initrd", "12345", "bytes", "at", "0x7ffc000"],
        &["ACPI", "root", "pointer", "at", "0xe0000"],
        &["hypervisor", "KVMKVMKVM"],
        &["serial", "port", "0x3f8,", "16550A,"],
    ] {
        assert!(has_line(&said, words), "{words:?}: {said}");
    }
    for table in ["XSDT", "FACP", "DSDT", "APIC"] {
        assert!(has_line(&said, &[table, "at"]), "{table}: {said}");
    }
    assert!(!said.contains("checksum"), "{said}");
    let cmdline = said.lines().find(|l| l.starts_with("cmdline")).unwrap();
    assert!(cmdline.contains("console=ttyS0") && cmdline.trim_end().ends_with(" a=b c"), "{cmdline}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let days = now / 86400;
    let clock = said.lines().find(|l| l.starts_with("clock")).unwrap();
    assert!([days - 1, days, days + 1].iter().any(|d| clock.contains(&date(*d))), "{clock}");

    assert_eq!(ask(&mut session, "echo  some   words"), "some   words\r\n> ");
    assert!(ask(&mut session, "help").contains("poweroff"));
    assert_eq!(ask(&mut session, "frob"), "frob: no such command; help lists them\r\n> ");
    assert_eq!(ask(&mut session, "check"), "0x400000 and 0x7fffff8: good\r\n> ");
    let info = drystone(dir.path(), &["info", "small"]).output().unwrap();
    let info = String::from_utf8(info.stdout).unwrap();
    assert!(info.contains("kernel   (built in), entered by the pvh protocol"), "{info}");
    session.type_in(b"poweroff\r");
    let (code, said) = session.end();
    assert_eq!(code, 0, "{said}");
    assert!(!dir.path().join("small").exists());
}

/// The date of a day since 1970 (the civil calendar, by counting).
fn date(days: u64) -> String {
    let (mut year, mut left) = (1970, days);
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 0;
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    while left >= months[month] {
        left -= months[month];
        month += 1;
    }
    format!("{year}-{:02}-{:02}", month + 1, left + 1)
}

#[test]
fn it_starts_again_in_place_and_its_crash_is_told() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut session, first) = run(dir.path(), &["--memory", "64M"]);
    for _ in 0..3 {
        session.type_in(b"reset\r");
        session.read_to("A small guest");
        let again = session.read_to("\r\n> ");
        assert_eq!(has_line(&again, &["processors", "1"]), has_line(&first, &["processors", "1"]));
        assert!(has_line(&again, &["memory", "64", "MiB,"]), "{again}");
    }
    session.type_in(b"crash\r");
    let (code, said) = session.end();
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("the guest crashed: triple fault"), "{said}");
}

#[test]
fn all_of_64_gib_is_there_and_costs_what_is_touched() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (size, lines) in [
        ("64M", &["0x400000 and 0x3fffff8: good"][..]),
        ("3G", &["0x400000 and 0xbffffff8: good"]),
        ("3145732K", &["0x400000 and 0xbffffff8: good", "0x100000000 and 0x100000ff8: good"]),
        ("5G", &["0x400000 and 0xbffffff8: good", "0x100000000 and 0x17ffffff8: good"]),
        ("64G", &["0x400000 and 0xbffffff8: good", "0x100000000 and 0x103ffffff8: good"]),
    ] {
        let (mut session, said) = run(dir.path(), &["--memory", size, "--huge-pages", "never"]);
        assert!(size != "64G" || has_line(&said, &["memory", "64", "GiB,"]), "{said}");
        let answer = ask(&mut session, "check");
        assert_eq!(answer, format!("{}\r\n> ", lines.join("\r\n")), "{size}");
        let resident = resident_mib(session.child.id());
        assert!(resident < 64, "{resident} MiB are resident for {size} of which little was touched");
        session.type_in(b"poweroff\r");
        assert_eq!(session.end().0, 0);
    }
}

fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[test]
fn while_nobody_types_its_processor_sleeps() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut session, _) = run(dir.path(), &["--memory", "64M"]);
    // Processor time against the wall: a loaded machine makes it less, never more.
    let (before, start) = (cpu_ticks(session.child.id()), Instant::now());
    std::thread::sleep(Duration::from_secs(2));
    let used = cpu_ticks(session.child.id()) - before;
    let passed = start.elapsed().as_millis() as u64 / 10;
    assert!(used * 4 < passed, "{used} ticks of {passed}");
    assert_eq!(ask(&mut session, "echo awake"), "awake\r\n> ");
    session.type_in(b"\x01x");
    assert_eq!(session.end().0, 0);
}

/// User and system time of a process, in hundredths of a second.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
