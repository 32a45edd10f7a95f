//! The host's half of a job: moves bytes between the caller and the machine until the job has ended.

use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;

use crate::cancel::{Cancel, Resizes};
use crate::collect::Collector;
use crate::error::Error;
use crate::executor::Link;
use crate::machine::{Event, Machine};
use crate::sink::Sink;
use crate::terminal;
use crate::watch::Watch;
use crate::wire::{End, Kind, parse};

/// Input is read from the caller only while less than this waits for the machine.
const BACKLOG: usize = 256 << 10;
/// How much longer than its own limit a job may take before the machine counts as hung.
const GRACE: Duration = Duration::from_secs(60);
/// The escape of an interactive job: Ctrl-] this often in a row.
const ESCAPE: u8 = 0x1d;
const ESCAPES: usize = 3;

/// Where standard input comes from.
#[derive(Debug)]
pub(crate) enum Input {
    None,
    Inherited { ended: bool },
}

/// Everything that a job in progress is connected to.
pub(crate) struct Pump<'a> {
    pub link: Link,
    pub machine: Option<&'a mut Machine>,
    pub input: Input,
    pub stdout: Sink,
    pub stderr: Sink,
    pub collector: Collector,
    pub cancel: Option<Cancel>,
    pub resizes: Option<Resizes>,
    /// The job's own time limit.
    pub limit: Option<Duration>,
    /// Whether the caller's terminal is in raw mode; then escape characters mean something.
    pub raw: bool,
    /// How many of those were typed in a row.
    pub escapes: usize,
    /// Set by the last frame: what the machine does from then on is of no interest.
    pub over: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Link,
    Input,
    Stdout,
    Stderr,
    Cancel,
    Resize,
    Machine,
}

impl Pump<'_> {
    /// Runs until the last frame.
    pub(crate) fn run(&mut self) -> Result<End, Error> {
        let deadline = self.limit.and_then(|limit| Instant::now().checked_add(limit + GRACE));
        loop {
            // Frames wait in the link while the caller is slow to take output.
            while !self.stdout.is_behind() && !self.stderr.is_behind() {
                match self.take_frame()? {
                    Taken::Nothing => break,
                    Taken::Frame => {}
                    Taken::End(end) => {
                        self.over = true;
                        self.drain()?;
                        return Ok(end);
                    }
                }
            }
            let ready = self.wait(deadline)?;
            self.serve(&ready)?;
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(self.failure("does not answer, long after the job's time limit"));
            }
        }
    }

    /// Hands over what output is left after the last frame.
    fn drain(&mut self) -> Result<(), Error> {
        while self.stdout.is_behind() || self.stderr.is_behind() {
            let ready = self.wait(None)?;
            self.serve(&ready)?;
        }
        Ok(())
    }

    fn wait(&self, deadline: Option<Instant>) -> Result<Vec<Source>, Error> {
        let mut watch = Watch::new();
        let behind = self.stdout.is_behind() || self.stderr.is_behind();
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, !behind);
        flags.set(PollFlags::OUT, self.link.backlog() > 0);
        let link = !self.over && !flags.is_empty();
        watch.add(Source::Link, link.then(|| self.link.fd()), flags);
        let reads_input = matches!(self.input, Input::Inherited { ended: false }) && !self.over;
        let reads_input = reads_input && self.link.backlog() < BACKLOG;
        watch.add(Source::Input, reads_input.then(rustix::stdio::stdin), PollFlags::IN);
        let writes = |sink: &Sink| if sink.is_behind() { PollFlags::OUT } else { PollFlags::empty() };
        watch.add(Source::Stdout, self.stdout.fd(), writes(&self.stdout));
        watch.add(Source::Stderr, self.stderr.fd(), writes(&self.stderr));
        watch.add(Source::Cancel, self.cancel.as_ref().map(Cancel::fd), PollFlags::IN);
        watch.add(Source::Resize, self.resizes.as_ref().map(Resizes::fd), PollFlags::IN);
        let machine = self.machine.as_ref().filter(|_| !self.over);
        watch.add(Source::Machine, machine.and_then(|machine| machine.event_fd()), PollFlags::IN);
        watch.wait(deadline).map_err(|error| Error::io("wait for", "the job", error))
    }

    fn serve(&mut self, ready: &[Source]) -> Result<(), Error> {
        for source in ready {
            match source {
                Source::Cancel => {
                    return Err(self.cancel.as_ref().map_or(Error::Cancelled(None), Cancel::error));
                }
                Source::Stdout => self.stdout.write_some("standard output")?,
                Source::Stderr => self.stderr.write_some("error output")?,
                Source::Input => self.read_input()?,
                Source::Resize => self.resize(),
                Source::Machine => self.machine_events()?,
                Source::Link => match self.link.exchange() {
                    Ok(true) => {}
                    Ok(false) => return Err(self.failure("ended before the job did")),
                    Err(error) => return Err(self.failure(&format!("cannot be talked to any more: {error}"))),
                },
            }
        }
        Ok(())
    }

    fn failure(&mut self, what: &str) -> Error {
        match &mut self.machine {
            Some(machine) => machine.error(what),
            None => Error::Machine { what: what.into(), console: String::new() },
        }
    }

    fn machine_events(&mut self) -> Result<(), Error> {
        let Some(machine) = &mut self.machine else { return Ok(()) };
        if machine.events()?.contains(&Event::DiskFull) {
            return Err(Error::DiskFull {
                attempt: "store what the job writes, in",
                path: "the lab's directory".into(),
            });
        }
        Ok(())
    }

    fn resize(&mut self) {
        if let Some(resizes) = &self.resizes {
            resizes.drain();
            self.link.send_json(Kind::Resize, &terminal::size());
        }
    }

    fn read_input(&mut self) -> Result<(), Error> {
        let mut buffer = vec![0; 64 << 10];
        let length = match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            // A terminal that was hung up.
            Err(_) => 0,
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        if bytes.is_empty() {
            self.input = Input::Inherited { ended: true };
            self.link.send(Kind::StdinEnd, &[]);
            return Ok(());
        }
        for byte in bytes {
            self.escapes = if *byte == ESCAPE { self.escapes + 1 } else { 0 };
            if self.raw && self.escapes >= ESCAPES {
                return Err(Error::Cancelled(None));
            }
        }
        self.link.send(Kind::Stdin, bytes);
        Ok(())
    }

    fn take_frame(&mut self) -> Result<Taken, Error> {
        let broken =
            |what: String| Error::Machine { what: format!("sends nonsense: {what}"), console: String::new() };
        let Some((kind, payload)) = self.link.next().map_err(|error| broken(error.to_string()))? else {
            return Ok(Taken::Nothing);
        };
        match kind {
            Kind::Stdout => self.stdout.take(payload, "standard output")?,
            Kind::Stderr => self.stderr.take(payload, "error output")?,
            Kind::Item => {
                self.collector.begin(&parse(payload).map_err(|error| broken(error.to_string()))?)?
            }
            Kind::Data => self.collector.data(payload)?,
            Kind::End => return Ok(Taken::End(parse(payload).map_err(|error| broken(error.to_string()))?)),
            Kind::Ready => {}
            Kind::Run | Kind::Stdin | Kind::StdinEnd | Kind::Resize => {
                return Err(broken(format!("a {kind:?} frame")));
            }
        }
        Ok(Taken::Frame)
    }
}

enum Taken {
    Nothing,
    Frame,
    End(End),
}
