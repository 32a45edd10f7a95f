//! A machine that is reset a hundred times in a row, by its guest, takes no more than before. On any `/dev/kvm`: the guest is
//! a handful of instructions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);
const LOAD: u64 = 0x10_0000;

/// An ELF that writes the reset value to the ACPI reset register, and halts.
fn kernel() -> Vec<u8> {
    const CODE: &[u8] = &[0x66, 0xba, 0x02, 0x06, 0xb0, 0x01, 0xee, 0xf4, 0xeb, 0xfd];
    let at = 64 + 56;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
    elf.resize(16, 0);
    let half = |elf: &mut Vec<u8>, v: u16| elf.extend(v.to_le_bytes());
    let word = |elf: &mut Vec<u8>, v: u32| elf.extend(v.to_le_bytes());
    let long = |elf: &mut Vec<u8>, v: u64| elf.extend(v.to_le_bytes());
    // Executable, x86-64, version 1; entry, program headers right behind, no section headers.
    half(&mut elf, 2);
    half(&mut elf, 62);
    word(&mut elf, 1);
    [LOAD, 64, 0].into_iter().for_each(|v| long(&mut elf, v));
    word(&mut elf, 0);
    [64, 56, 1, 0, 0, 0].into_iter().for_each(|v| half(&mut elf, v));
    // One segment: load, readable and executable.
    word(&mut elf, 1);
    word(&mut elf, 5);
    let len = CODE.len() as u64;
    [at, LOAD, LOAD, len, len, 0x1000].into_iter().for_each(|v| long(&mut elf, v));
    elf.extend(CODE);
    elf
}

struct Killed(Child);
impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a process takes up beside shared memory, which guest RAM is here.
#[derive(Debug, PartialEq, Eq)]
struct Taken {
    threads: usize,
    fds: usize,
    private_kib: u64,
}

fn taken(pid: u32) -> Taken {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let private = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap();
    let private_kib = private.trim().trim_end_matches(" kB").parse().unwrap();
    Taken { threads: count("task"), fds: count("fd"), private_kib }
}

fn wait_for_resets(log: &Path, n: usize) {
    let start = Instant::now();
    let resets = || {
        let old = std::fs::read_to_string(drystone::log::old(log)).unwrap_or_default();
        let text = std::fs::read_to_string(log).unwrap_or_default();
        (old + &text).matches(" reset guest_reset\n").count()
    };
    while resets() < n {
        assert!(start.elapsed() < LONG, "{n} resets do not come: {}", std::fs::read_to_string(log).unwrap());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_hundred_resets_in_a_row_take_nothing() {
    if std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        eprintln!("NOT TESTED: /dev/kvm cannot be opened");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, log) = (dir.path().join("kernel"), dir.path().join("log"));
    std::fs::write(&image, kernel()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_drystone"));
    command.args(["run", "--memory", "8M", "--memory-backing", "memfd", "--cpus", "2", "--console", "none"]);
    command.arg("--kernel").arg(&image).arg("--log-file").arg(&log).env("DRYSTONE_RUNTIME_DIR", dir.path());
    let machine = Killed(command.stdin(Stdio::null()).spawn().unwrap());

    wait_for_resets(&log, 5);
    let before = taken(machine.0.id());
    wait_for_resets(&log, 105);
    let after = taken(machine.0.id());
    assert_eq!((after.threads, after.fds), (before.threads, before.fds));
    // What is kept of events has its bound, which comes later.
    assert!(after.private_kib <= before.private_kib + 256, "{before:?}, then {after:?}");
}
