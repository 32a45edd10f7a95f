//! What the tests of the runner share.

#![allow(dead_code)]

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use drystone_lab::{Lab, Progress};

/// The lab, with the program under test as its agent.
pub fn lab() -> Lab {
    Lab::prepare_with_agent(runner_path().as_ref(), &Progress::stderr()).unwrap()
}

pub fn runner_path() -> &'static str {
    env!("CARGO_BIN_EXE_drystone-lab")
}

/// `drystone-lab run`, to be followed by options and a command.
pub fn runner() -> Command {
    let mut command = Command::new(runner_path());
    command.arg("run").stdin(Stdio::null());
    command
}

/// Reads standard output until it contains `text`.
pub fn read_until(from: &mut impl Read, text: &str) -> String {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains(text) {
        let length = from.read(&mut buffer).unwrap_or(0);
        assert!(length > 0, "ended before {text:?}: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

/// A process by number and time of start, so that a later one with the same number is not mistaken for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pid: u32,
    started: String,
}

impl Process {
    pub fn find(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().map(String::from).collect();
        (fields[0] != "Z").then(|| Self { pid, started: fields[19].clone() })
    }

    /// Stops the process where it is, until it is killed.
    pub fn stop(&self) {
        let pid = rustix::process::Pid::from_raw(self.pid as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    }

    pub fn is_alive(&self) -> bool {
        Self::find(self.pid).as_ref() == Some(self)
    }
}

/// The QEMU that a runner has started, and the directory of its job.
pub fn machine_of(runner: &Child) -> (Process, PathBuf) {
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent =
            stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1).map(String::from));
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        if parent == Some(runner.id().to_string()) && command.contains("qemu-system-x86_64") {
            let console = command.split('\0').find_map(|word| word.strip_prefix("file:")).unwrap();
            return (Process::find(pid).unwrap(), PathBuf::from(console).parent().unwrap().into());
        }
    }
    panic!("the runner has no QEMU");
}

/// Waits for something that happens soon, or not at all.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("never happened: {what}");
}
