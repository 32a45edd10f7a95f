//! The runner on a pseudo-terminal, as a person uses it.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};

use common::runner;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

struct Terminal {
    screen: File,
    slave: OwnedFd,
}

impl Terminal {
    fn new(rows: u16, columns: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let terminal = Self { screen: master.into(), slave };
        terminal.resize(rows, columns);
        terminal
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.screen, size).unwrap();
    }

    fn spawn(&self, command: &mut Command) -> Child {
        let end = || self.slave.try_clone().unwrap();
        command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap()
    }

    /// What a person types; a terminal sends a carriage return for the enter key.
    fn type_in(&mut self, text: &str) {
        self.screen.write_all(text.as_bytes()).unwrap();
    }

    /// Reads the screen until a text appears. This end of a terminal never sees an end of file while the other is open
    /// here, so silence for very long means that it will not come.
    fn expect(&mut self, text: &str) -> String {
        let mut seen = String::new();
        let patience = Timespec { tv_sec: 100, tv_nsec: 0 };
        while !seen.contains(text) {
            let ready = poll(&mut [PollFd::new(&self.screen, PollFlags::IN)], Some(&patience)).unwrap();
            assert!(ready > 0, "{text:?} does not appear, but {seen:?}");
            let mut buffer = [0; 1024];
            let length = self.screen.read(&mut buffer).unwrap();
            seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        seen
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.slave).unwrap().local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
    }
}

#[test]
fn a_shell_in_the_job_feels_like_one_here() {
    let mut terminal = Terminal::new(33, 99);
    let mut child = terminal.spawn(runner().args(["-i", "--tty", "--", "sh"]));
    terminal.expect("# ");
    assert!(terminal.is_raw());
    terminal.type_in("echo $((6 * 7)) typed\r");
    let shown = terminal.expect("42 typed");
    assert!(shown.contains("echo $((6 * 7)) typed"), "what is typed is echoed: {shown:?}");
    terminal.type_in("stty size\r");
    terminal.expect("33 99");
    // The size of a real terminal changes with a signal to whoever runs on it.
    terminal.resize(40, 120);
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), Signal::WINCH).unwrap();
    terminal.type_in("until stty size | grep '40 120'; do sleep 0.1; done\r");
    terminal.expect("40 120\r\n");
    // Ctrl-C goes to what runs in the job, and not to the runner.
    terminal.type_in("sh -c 'echo up; exec sleep 1000'\r");
    terminal.expect("up\r\n");
    terminal.type_in("\x03");
    terminal.expect("# ");
    terminal.type_in("exit 6\r");
    assert_eq!(child.wait().unwrap().code(), Some(6));
    assert!(!terminal.is_raw(), "the terminal is as before");
}

#[test]
fn the_terminal_is_restored_however_the_runner_ends() {
    let mut terminal = Terminal::new(24, 80);
    let mut child = terminal.spawn(runner().args(["-i", "--tty", "--", "sh"]));
    terminal.expect("# ");
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(!terminal.is_raw());
    let mut child = terminal.spawn(runner().args(["-i", "--tty", "--", "stty -echo raw; sleep 1000"]));
    common::eventually("raw mode", || terminal.is_raw());
    terminal.type_in("\x1d\x1d\x1d");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!terminal.is_raw());
}

/// An emulator whose processors run at once now and then corrupts what they work on, as far as the stacks of the emulated machine's
/// own kernel: a guest that dies of that says nothing of what is tested here, once.
#[test]
fn boot_ends_in_a_shell_of_the_guest() {
    let Err(panic) = std::panic::catch_unwind(boots_to_a_shell) else { return };
    match panic.downcast_ref::<String>() {
        Some(said) if said.contains("triple fault") => {
            eprintln!("RUN AGAIN, because of the emulator: {said}");
            boots_to_a_shell();
        }
        _ => std::panic::resume_unwind(panic),
    }
}

fn boots_to_a_shell() {
    let mut terminal = Terminal::new(31, 101);
    let mut child = terminal.spawn(Command::new(common::runner_path()).args(["boot", "--kernel", "6.1"]));
    let shown = terminal.expect("guest:~# ");
    assert!(shown.contains("lab: running "), "it says where and why: {shown}");
    assert!(shown.contains("Linux 6.1.") && shown.contains("To leave: poweroff -f"), "{shown}");
    terminal.type_in("stty size; tty; grep -c ^processor /proc/cpuinfo\r");
    terminal.expect("31 101\r\n/dev/ttyS0\r\n1\r\n");
    // Job control works: Ctrl-C ends a program and not the shell.
    terminal.type_in("sh -c 'echo up; exec sleep 1000'\r");
    terminal.expect("up\r\n");
    terminal.type_in("\x03");
    terminal.expect("guest:~# ");
    terminal.type_in("poweroff -f\r");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!terminal.is_raw());
}
