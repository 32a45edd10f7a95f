//! A QEMU process that never outlives us.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::command::{Shape, Start, Wiring, command};
use super::qmp::Qmp;
use crate::error::{Context, Error};
use crate::spawn::{Before, spawn};
use crate::tools::Tools;

/// The lines of console and of QEMU's own messages that an error quotes.
const QUOTED_LINES: usize = 12;

/// What a running machine may report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// Its disk could not be written because the host's is full.
    DiskFull,
}

/// A running QEMU; dropping it kills it. It also dies with the thread that made it.
#[derive(Debug)]
pub(crate) struct Machine {
    child: Child,
    qmp: Option<Qmp>,
    port: Option<UnixStream>,
    dir: PathBuf,
}

impl Machine {
    /// Starts QEMU with its disk, console log and messages in `dir`, and its memory in `ram`.
    pub(crate) fn start(
        tools: &Tools,
        shape: Shape,
        dir: &Path,
        ram: &Path,
        start: &Start<'_>,
    ) -> Result<Self, Error> {
        let pair = || UnixStream::pair().at("make a socket for", dir);
        let ((control, their_control), (port, their_port)) = (pair()?, pair()?);
        let wiring = Wiring {
            tools,
            shape,
            ram,
            ram_shared: matches!(start, Start::Boot { .. }),
            disk: &dir.join("disk"),
            console: &dir.join("console"),
            control: their_control.as_raw_fd(),
            port: their_port.as_raw_fd(),
        };
        let messages = fs::File::create(dir.join("messages")).at("create", dir.join("messages"))?;
        let mut command = command(&wiring, start);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(messages);
        let inherit: Vec<OwnedFd> = vec![their_control.into(), their_port.into()];
        let child =
            spawn(&mut command, Before { inherit, ..Before::default() }).at("start", tools.qemu.file())?;
        // Our copies of its ends are closed with the command: only then is its death seen on the sockets.
        drop(command);
        let mut machine = Self { child, qmp: None, port: Some(port), dir: dir.into() };
        let qmp = Qmp::connect(control).map_err(|what| machine.error(what))?;
        machine.qmp = Some(qmp);
        Ok(machine)
    }

    /// The job's port, once.
    pub(crate) fn take_port(&mut self) -> Result<UnixStream, Error> {
        self.port.take().ok_or_else(|| Error::Job("the machine's port is already in use".into()))
    }

    /// Executes a control command.
    fn execute(&mut self, name: &str, arguments: Value) -> Result<Value, Error> {
        let result = match &mut self.qmp {
            Some(qmp) => qmp.execute(name, arguments),
            None => Err("is not under control".into()),
        };
        result.map_err(|what| self.error(what))
    }

    /// Memory is in a file already: leave it out of the saved state.
    fn ignore_memory(&mut self) -> Result<(), Error> {
        let capability = json!([{ "capability": "x-ignore-shared", "state": true }]);
        self.execute("migrate-set-capabilities", json!({ "capabilities": capability })).map(drop)
    }

    /// Stops the machine and writes the state of its processors and devices to a file.
    pub(crate) fn save(&mut self, state: &Path) -> Result<(), Error> {
        self.execute("stop", json!({}))?;
        self.ignore_memory()?;
        self.execute("migrate", json!({ "uri": format!("file:{}", state.display()) }))?;
        self.wait_while(
            "query-migrate",
            &["none", "setup", "active", "device", "wait-unplug", "pre-switchover"],
        )?;
        let status = self.execute("query-migrate", json!({}))?;
        match status.get("status").and_then(Value::as_str) {
            Some("completed") => Ok(()),
            _ => Err(self.error(format!("cannot be saved: {status}"))),
        }
    }

    /// Reads the state from a file and lets the machine run.
    pub(crate) fn resume(&mut self, state: &Path) -> Result<(), Error> {
        self.ignore_memory()?;
        self.execute("migrate-incoming", json!({ "uri": format!("file:{}", state.display()) }))?;
        self.wait_while("query-status", &["inmigrate"])?;
        self.execute("cont", json!({})).map(drop)
    }

    fn wait_while(&mut self, query: &str, states: &[&str]) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            let answer = self.execute(query, json!({}))?;
            let status = answer.get("status").and_then(Value::as_str).unwrap_or("none");
            if !states.contains(&status) {
                return Ok(());
            }
            if begun.elapsed() > Duration::from_secs(60) {
                return Err(self.error(format!("stays in the state {status:?}")));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Becomes readable when there is an event, or the machine has ended.
    pub(crate) fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.qmp.as_ref().map(|qmp| qmp.stream().as_fd())
    }

    /// Takes the events that have arrived; an error when the machine has ended.
    pub(crate) fn events(&mut self) -> Result<Vec<Event>, Error> {
        let mut events = Vec::new();
        while let Some(qmp) = &mut self.qmp {
            match qmp.pending_event() {
                Ok(Some(event)) => events.extend(known(&event)),
                Ok(None) => break,
                Err(what) => return Err(self.error(what)),
            }
        }
        Ok(events)
    }

    /// An error about this machine, with what can be found out about its end.
    pub(crate) fn error(&mut self, what: impl Into<String>) -> Error {
        let mut what = what.into();
        // A machine that is about to end gets a moment to do so.
        let begun = Instant::now();
        let mut status = self.child.try_wait().ok().flatten();
        while status.is_none() && begun.elapsed() < Duration::from_millis(200) {
            std::thread::sleep(Duration::from_millis(5));
            status = self.child.try_wait().ok().flatten();
        }
        if let Some(status) = status {
            // Memory is a mapped file: a disk without room for it shows as a bus error.
            if status.signal() == Some(7) {
                return Error::DiskFull {
                    attempt: "write the machine's memory below",
                    path: self.dir.clone(),
                };
            }
            what = format!("{what} (QEMU: {status})");
        }
        let messages = tail(&self.dir.join("messages"));
        let console = [messages, tail(&self.dir.join("console"))].concat();
        Error::Machine { what, console }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn known(event: &Value) -> Option<Event> {
    let is = event.get("event")?.as_str()? == "BLOCK_IO_ERROR";
    (is && event.pointer("/data/nospace")?.as_bool()?).then_some(Event::DiskFull)
}

/// The last lines of a log file, without what a terminal would take as a command.
fn tail(path: &Path) -> String {
    let Ok(mut file) = fs::File::open(path) else { return String::new() };
    let _ = file.seek(SeekFrom::End(-16384));
    let mut bytes = Vec::new();
    let _ = file.take(16384).read_to_end(&mut bytes);
    let text: String =
        String::from_utf8_lossy(&bytes).chars().filter(|char| !char.is_control() || *char == '\n').collect();
    // What a kernel says after this helps nobody who reads an error message.
    let of_interest = text.lines().take_while(|line| !line.contains("Call Trace:"));
    let lines: Vec<_> = of_interest.filter(|line| !line.trim().is_empty()).collect();
    let kept = lines.get(lines.len().saturating_sub(QUOTED_LINES)..).unwrap_or_default();
    kept.iter().map(|line| format!("  {line}\n")).collect()
}
