//! The command of a job and the pipes or the terminal around it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::{Containment, Link};
use crate::spawn::{Before, spawn};
use crate::wire::{Kind, Request, Size, parse};

/// A command that has been started.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) child: Child,
    handle: OwnedFd,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    input: VecDeque<u8>,
    input_ended: bool,
    terminal: bool,
    buffer: Vec<u8>,
}

/// The other ends of what the command gets as its standard streams.
#[derive(Default)]
struct Ends {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Running {
    /// Starts the command; an error is the exit code a shell would give, and the cause.
    pub(super) fn start(
        request: &Request,
        directory: &Path,
        containment: &Containment,
    ) -> Result<Self, (i32, String)> {
        let system = |error: io::Error| (125, format!("cannot prepare the command: {error}"));
        let Some((program, arguments)) = request.command.split_first() else {
            return Err((125, "no command".into()));
        };
        let mut command = Command::new(program);
        command.args(arguments).current_dir(directory).env_clear().envs(&request.environment);
        let mut before =
            Before { session: true, cgroup: containment.join().map_err(system)?, ..Before::default() };
        let ends = match request.terminal {
            Some(size) => {
                before.terminal = true;
                attach_terminal(&mut command, size).map_err(system)?
            }
            None => attach_pipes(&mut command, request.stdin).map_err(system)?,
        };
        let child = spawn(&mut command, before).map_err(|error| explain(program, directory, &error))?;
        // The command's own ends must not stay open here, or its output would never end.
        drop(command);
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let handle = pid.ok_or(Errno::SRCH).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
        for end in [&ends.stdin, &ends.stdout, &ends.stderr].into_iter().flatten() {
            nonblocking(end).map_err(system)?;
        }
        Ok(Self {
            child,
            handle: handle.map_err(|error| system(error.into()))?,
            stdin: ends.stdin,
            stdout: ends.stdout,
            stderr: ends.stderr,
            input: VecDeque::new(),
            input_ended: false,
            terminal: request.terminal.is_some(),
            buffer: vec![0; 128 << 10],
        })
    }

    /// A descriptor that is readable once the command has ended.
    pub(super) fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    pub(super) fn stdout(&self) -> Option<BorrowedFd<'_>> {
        self.stdout.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn stderr(&self) -> Option<BorrowedFd<'_>> {
        self.stderr.as_ref().map(AsFd::as_fd)
    }

    /// Standard input, when there is something to write to it.
    pub(super) fn waiting_stdin(&self) -> Option<BorrowedFd<'_>> {
        self.stdin.as_ref().filter(|_| !self.input.is_empty()).map(AsFd::as_fd)
    }

    pub(super) fn input_backlog(&self) -> usize {
        self.input.len()
    }

    /// True when no more output can come.
    pub(super) fn is_silent(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }

    /// Takes the frames that have arrived.
    pub(super) fn take_input(&mut self, link: &mut Link) -> io::Result<()> {
        while let Some((kind, payload)) = link.next().map_err(io::Error::other)? {
            match kind {
                Kind::Stdin => self.input.extend(payload),
                Kind::StdinEnd => {
                    // What ends the input of a terminal is the end-of-file character.
                    self.input.extend(self.terminal.then_some(4));
                    self.input_ended = true;
                }
                Kind::Resize => {
                    if let (Some(terminal), Ok(size)) = (&self.stdout, parse(payload)) {
                        let _ = tcsetwinsize(terminal, winsize(size));
                    }
                }
                _ => {}
            }
        }
        self.close_finished_input();
        Ok(())
    }

    /// Writes input as far as the command takes it.
    pub(super) fn feed(&mut self) {
        while let (Some(stdin), (front, _)) = (&self.stdin, self.input.as_slices()) {
            if front.is_empty() {
                break;
            }
            match rustix::io::write(stdin, front) {
                Ok(length) => drop(self.input.drain(..length)),
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(_) => {
                    self.stdin = None;
                    self.input.clear();
                }
            }
        }
        self.close_finished_input();
    }

    fn close_finished_input(&mut self) {
        if self.stdin.is_none() {
            self.input.clear();
        }
        if self.input_ended && self.input.is_empty() && !self.terminal {
            self.stdin = None;
        }
    }

    /// Passes on what the command has written.
    pub(super) fn read_output(&mut self, stdout: bool, stderr: bool, link: &mut Link) {
        if stdout {
            pass_on(&mut self.stdout, &mut self.buffer, Kind::Stdout, link);
        }
        if stderr {
            pass_on(&mut self.stderr, &mut self.buffer, Kind::Stderr, link);
        }
    }
}

fn pass_on(from: &mut Option<OwnedFd>, buffer: &mut [u8], kind: Kind, link: &mut Link) {
    let Some(fd) = from else { return };
    match rustix::io::read(&*fd, &mut *buffer) {
        Ok(length) if length > 0 => link.send(kind, buffer.get(..length).unwrap_or_default()),
        Err(Errno::AGAIN | Errno::INTR) => {}
        // The end; a terminal says EIO once nobody has it open.
        _ => *from = None,
    }
}

fn attach_pipes(command: &mut Command, stdin: bool) -> io::Result<Ends> {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let mut ends = Ends::default();
    if stdin {
        let (read, write) = pipe()?;
        command.stdin(Stdio::from(read));
        ends.stdin = Some(write);
    } else {
        command.stdin(Stdio::null());
    }
    let (read, write) = pipe()?;
    // A command that writes much gets ahead by more than one exchange with the host; it is no loss where that is refused.
    let _ = rustix::pipe::fcntl_setpipe_size(&read, 512 << 10);
    command.stdout(Stdio::from(write));
    ends.stdout = Some(read);
    let (read, write) = pipe()?;
    command.stderr(Stdio::from(write));
    ends.stderr = Some(read);
    Ok(ends)
}

fn attach_terminal(command: &mut Command, size: Size) -> io::Result<Ends> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    tcsetwinsize(&master, winsize(size))?;
    let name = ptsname(&master, Vec::new())?;
    let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    command
        .stdin(Stdio::from(slave.try_clone()?))
        .stdout(Stdio::from(slave.try_clone()?))
        .stderr(Stdio::from(slave));
    Ok(Ends { stdin: Some(master.try_clone()?), stdout: Some(master), stderr: None })
}

fn winsize(size: Size) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn nonblocking(fd: &OwnedFd) -> io::Result<()> {
    Ok(fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?)
}

/// Says why a program did not start, with the exit code that a shell gives for it.
fn explain(program: &str, directory: &Path, error: &io::Error) -> (i32, String) {
    if error.kind() != io::ErrorKind::NotFound {
        return (126, format!("cannot start {program}: {error}"));
    }
    if program.contains('/') && directory.join(program).exists() {
        let what =
            "the program that interprets it, or its dynamic loader, is not in the machine that runs the job";
        return (127, format!("cannot start {program}: the file is there, but {what}"));
    }
    (127, format!("cannot start {program}: there is no such program in the job's directory or the path"))
}
