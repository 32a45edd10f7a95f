//! A machine whose guest waits does not wake up: none of its threads looks now and then whether there is something to do.
//! By what the kernel counts, not by time: how often each thread gave its processor away by itself, which it does once
//! for every time that it wakes up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod common;

use common::{Session, drystone, has_kvm, is_raw, wait_until};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

/// So long nothing shall happen. More often than once in this time is what is found.
const QUIET: Duration = Duration::from_secs(1);
/// What still goes on after a start may take a few of these.
const PATIENCE: u32 = 30;

/// For each thread (number and name) how often it gave its processor away by itself (proc_pid_status(5)).
fn switches(pid: u32) -> BTreeMap<String, u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let each = tasks.map(|task| {
        let (task, path) = (task.as_ref().unwrap().file_name(), task.as_ref().unwrap().path());
        let status = fs::read_to_string(path.join("status")).unwrap();
        let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_owned();
        let thread = format!("{} {}", task.to_string_lossy(), field("Name:"));
        (thread, field("voluntary_ctxt_switches:").parse().unwrap())
    });
    each.collect()
}

/// Waits for a time in which no thread wakes up; there is none if one does so by the clock.
fn becomes_quiet(pid: u32) {
    let mut before = switches(pid);
    for _ in 0..PATIENCE {
        std::thread::sleep(QUIET);
        let now = switches(pid);
        if now == before {
            assert!(now.len() > 3, "a machine has threads: {now:?}");
            return;
        }
        before = now;
    }
    std::thread::sleep(QUIET);
    let now = switches(pid);
    let woken: Vec<_> =
        now.iter().map(|(thread, n)| (thread, n - before.get(thread).unwrap_or(&0))).collect();
    panic!("threads wake up while there is nothing to do, in one second so often: {woken:?}");
}

/// Arguments for a machine with a disk whose queues have threads of their own, and as many vCPUs as may be halted.
fn machine(dir: &Path) -> Vec<String> {
    let disk = dir.join(".disk");
    fs::write(&disk, [0; 1 << 20]).unwrap();
    let disk = format!("{},queues=4", disk.display());
    ["run", "--memory", "64M", "--cpus", "2", "--disk", &disk].map(str::to_owned).to_vec()
}

#[test]
fn a_machine_on_a_terminal_sleeps_while_its_guest_does() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let args = machine(dir.path());
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let mut session = Session::open(drystone(dir.path(), &args));
    wait_until("raw mode", || is_raw(&session.tty));
    session.read_to("\r\n> ");
    becomes_quiet(session.child.id());
    let threads = switches(session.child.id());
    let serve = threads.keys().filter(|thread| thread.contains(" virtio-")).count();
    let processors = std::thread::available_parallelism().unwrap().get();
    assert_eq!(serve, processors.min(2), "two of four queues can be busy: {threads:?}");
    session.type_in(b"echo awake\r");
    session.read_to("awake\r\n> ");
    becomes_quiet(session.child.id());
    session.type_in(b"poweroff\r");
    assert_eq!(session.end().0, 0);
}

struct Killed(Child);
impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A machine whose guest has said what it found. Its output is a pipe.
fn started(dir: &Path, input: Stdio) -> Killed {
    let args = machine(dir);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let mut command = drystone(dir, &args);
    let mut child = Killed(command.stdin(input).stdout(Stdio::piped()).spawn().unwrap());
    read_to_prompt(&mut child);
    becomes_quiet(child.0.id());
    child
}

/// Reads what the guest says until it waits for a command.
fn read_to_prompt(child: &mut Killed) {
    let mut said = Vec::new();
    let out = child.0.stdout.as_mut().unwrap();
    while !said.ends_with(b"\r\n> ") {
        let mut byte = [0];
        out.read_exact(&mut byte).unwrap();
        said.extend(byte);
    }
}

#[test]
fn a_machine_has_no_thread_for_what_nobody_asks() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let child = started(dir.path(), Stdio::null());
    let has = |name: &str| switches(child.0.id()).keys().any(|thread| thread.ends_with(name));
    assert!(has(" console-out") && !has(" control"), "nobody asks");
    for _ in 0..2 {
        assert!(drystone(dir.path(), &["info"]).stdout(Stdio::null()).status().unwrap().success());
        assert!(has(" control"), "somebody asked");
    }
    becomes_quiet(child.0.id());
}

#[test]
fn a_machine_on_pipes_sleeps_also_while_it_is_paused() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let child = started(dir.path(), Stdio::piped());
    for verb in ["pause", "resume"] {
        assert!(drystone(dir.path(), &[verb]).status().unwrap().success());
        becomes_quiet(child.0.id());
    }
}
