//! What tests share: the command, and a child on a terminal of its own.
#![allow(dead_code)] // each test takes what it needs

pub mod place;

use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// After so long a test gives up waiting.
pub const LONG: Duration = Duration::from_secs(60);

/// Whether there is a `/dev/kvm` to open; says so out loud if not.
pub fn has_kvm() -> bool {
    let opened = File::options().read(true).write(true).open("/dev/kvm");
    if let Err(e) = &opened {
        eprintln!("NOT RUN: /dev/kvm: {e}");
    }
    opened.is_ok()
}

/// The command, with its machines' directories in `runtime`.
pub fn drystone(runtime: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drystone"));
    command.args(args).env("DRYSTONE_RUNTIME_DIR", runtime).stderr(Stdio::piped());
    command
}

/// A child with a terminal.
pub struct Session {
    user: BufReader<File>,
    pub tty: OwnedFd,
    pub before: String,
    pub child: Child,
}

/// A test that fails leaves nothing running.
impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Session {
    /// Starts it with the terminal as its standard input and output.
    pub fn open(mut command: Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let tty = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let before = modes(&tty);
        let child = command.stdin(tty.try_clone().unwrap()).stdout(tty.try_clone().unwrap()).spawn().unwrap();
        Self { user: BufReader::new(File::from(master)), tty, before, child }
    }

    /// What is shown, up to and with `what`.
    pub fn read_to(&mut self, what: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(what) {
            let mut byte = [0];
            self.user.read_exact(&mut byte).unwrap();
            seen.push(char::from(byte[0]));
        }
        seen
    }

    pub fn type_in(&mut self, bytes: &[u8]) {
        self.user.get_mut().write_all(bytes).unwrap();
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits for the end; the terminal must be as it was. Returns the exit code and what was said on stderr.
    pub fn end(mut self) -> (i32, String) {
        let status = wait(&mut self.child);
        assert_eq!(modes(&self.tty), self.before, "the terminal is not as it was");
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status, said)
    }
}

pub fn wait(child: &mut Child) -> i32 {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or_else(|| panic!("{status}"));
        }
        if start.elapsed() > LONG {
            child.kill().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn is_raw(tty: &OwnedFd) -> bool {
    !tcgetattr(tty).unwrap().local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
}

pub fn modes(tty: &OwnedFd) -> String {
    format!("{:?}", tcgetattr(tty).unwrap())
}
