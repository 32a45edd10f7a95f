//! Commands that speak to machines that run.

use super::images::ImageError;
use crate::client::{Client, ClientError};
use crate::config::ByteSize;
use crate::control::{Action, Info, SnapshotProgress, Verb};
use crate::events::CauseKind;
use crate::registry::{Entry, Registry, RegistryError, VmId};
use drystone_vcpu::msr::MsrCount;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A machine that is asked for its state answers at once.
pub(super) const LOOK: Duration = Duration::from_secs(3);
/// A verb may have to wait for others and for the guest's devices.
const ACT: Duration = Duration::from_secs(30);
/// A machine that was just started may not have its socket yet.
const START: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(20);

/// What a command could not do.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("{id}: {cause}")]
    Client { id: VmId, cause: ClientError },
    #[error("no machine runs")]
    None,
    #[error("no machine named {id} runs{}", others(.running))]
    Unknown { id: VmId, running: Vec<VmId> },
    #[error("{} machines run: say which of {}", .0.len(), list(.0))]
    Ambiguous(Vec<VmId>),
    #[error("{id}: did not end within {} seconds{}", ACT.as_secs(), pid.map(|p| format!("; kill -9 {p} ends it")).unwrap_or_default())]
    Lingers { id: VmId, pid: Option<u32> },
    #[error("{}: no path: {cause}", path.display())]
    Path { path: PathBuf, cause: io::Error },
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
}

fn list(ids: &[VmId]) -> String {
    ids.iter().map(VmId::as_str).collect::<Vec<_>>().join(", ")
}

fn others(running: &[VmId]) -> String {
    if running.is_empty() { String::new() } else { format!(" (running: {})", list(running)) }
}

/// One line of `ls --json`: what is known of a machine, which is less while it starts.
#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    pid: Option<u32>,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpus: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uptime_ms: Option<u64>,
}

impl<'a> Row<'a> {
    fn new(entry: &'a Entry, answer: &Result<Info, ClientError>) -> Self {
        let info = answer.as_ref().ok();
        let state = match answer {
            Ok(info) => info.state.to_string(),
            Err(e) if e.is_absent() => "starting".into(),
            Err(_) => "unresponsive".into(),
        };
        Self {
            id: entry.id.as_str(),
            pid: entry.pid,
            state,
            cpus: info.map(|i| i.cpus),
            memory_bytes: info.map(|i| i.memory_bytes),
            uptime_ms: info.map(|i| i.uptime_ms),
        }
    }

    fn columns(&self) -> [String; 6] {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        [
            self.id.into(),
            or_dash(self.pid.map(|p| p.to_string())),
            self.state.clone(),
            or_dash(self.cpus.map(|c| c.to_string())),
            or_dash(self.memory_bytes.map(|m| ByteSize(m).to_string())),
            or_dash(self.uptime_ms.map(uptime)),
        ]
    }
}

/// `12s`, `3m04s`, `5h06m`, `2d03h`.
fn uptime(ms: u64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// `drystone ls`.
pub(super) fn ls(registry: &Registry, json: bool, out: &mut impl Write) -> Result<(), CommandError> {
    let entries = registry.list()?;
    let clients: Vec<_> = entries.iter().map(|e| Client::new(&e.socket, LOOK)).collect();
    let answers = Client::infos(&clients);
    let rows: Vec<_> = entries.iter().zip(&answers).map(|(e, a)| Row::new(e, a)).collect();
    if json {
        return print_json(&rows, out);
    }
    let head = ["ID", "PID", "STATE", "CPUS", "MEMORY", "UPTIME"].map(str::to_owned);
    let table: Vec<_> = std::iter::once(head).chain(rows.iter().map(Row::columns)).collect();
    let width = |i: usize| table.iter().filter_map(|row| row.get(i)).map(String::len).max().unwrap_or(0);
    for row in &table {
        let cells: Vec<_> =
            row.iter().enumerate().map(|(i, cell)| format!("{cell:w$}", w = width(i))).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// `drystone info`.
pub(super) fn info(
    registry: &Registry,
    id: Option<&VmId>,
    json: bool,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let entry = choose(registry, id)?;
    let info = patiently(&entry, || Client::new(&entry.socket, LOOK).info())?;
    if json {
        return print_json(&info, out);
    }
    let Info {
        id,
        pid,
        state,
        cpus,
        memory_bytes,
        uptime_ms,
        version,
        kernel,
        boot_protocol,
        resets,
        end,
        exits,
        exit_latency,
        msrs,
        snapshot,
    } = info;
    writeln!(out, "id       {id}\npid      {pid}\nstate    {state}\ncpus     {cpus}")?;
    writeln!(out, "memory   {}\nuptime   {}", ByteSize(memory_bytes), uptime(uptime_ms))?;
    writeln!(out, "kernel   {kernel}, entered by the {boot_protocol} protocol")?;
    writeln!(out, "resets   {resets}\nversion  {version}\nsocket   {}", entry.socket.display())?;
    if let Some(end) = end {
        writeln!(out, "end      {end}")?;
    }
    if let Some(SnapshotProgress { done, total }) = snapshot {
        writeln!(out, "snapshot {} of {} MiB written", done >> 20, total >> 20)?;
    }
    for (kind, n) in exits {
        writeln!(out, "exits    {kind} {n}")?;
    }
    for (kind, times) in exit_latency {
        writeln!(out, "latency  {kind}: {}", latency(&times))?;
    }
    for MsrCount { registers, action, reads, writes, .. } in msrs {
        writeln!(out, "msrs     {registers} {action}: {reads} reads, {writes} writes")?;
    }
    Ok(())
}

/// `drystone metrics`.
pub(super) fn metrics(
    registry: &Registry,
    id: &VmId,
    prefix: &str,
    json: bool,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let entry = choose(registry, Some(id))?;
    let mut metrics = patiently(&entry, || Client::new(&entry.socket, LOOK).metrics())?;
    metrics.retain(|name, _| name.starts_with(prefix));
    if json {
        return print_json(&metrics, out);
    }
    for (name, value) in metrics {
        match value {
            serde_json::Value::String(text) => writeln!(out, "{name} {text}")?,
            value => writeln!(out, "{name} {value}")?,
        }
    }
    Ok(())
}

/// The classes of a histogram in which half, 99 % and all of its times end.
fn latency(times: &BTreeMap<u64, u64>) -> String {
    let total: u128 = times.values().map(|&n| u128::from(n)).sum();
    let below = |percent: u128| {
        let mut sum = 0;
        let mut classes = times.iter();
        let found = classes.find(|&(_, &n)| {
            sum += u128::from(n) * 100;
            sum >= total * percent
        });
        found.map_or(Duration::ZERO, |(&below, _)| Duration::from_nanos(below))
    };
    format!("half below {:.1?}, 99 % below {:.1?}, all below {:.1?}", below(50), below(99), below(100))
}

/// `drystone pause`, `resume`, `power`, `ctrl-alt-del`, `nmi`, `reset`, `stop`, and what changes a device.
pub(super) fn act(
    registry: &Registry,
    id: Option<&VmId>,
    action: Action,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let entry = choose(registry, id)?;
    let done = patiently(&entry, || Client::new(&entry.socket, ACT).act(action.clone()));
    if action.verb() != Verb::Stop {
        return done.map(drop);
    }
    // Its end may cut the answer off; what counts is that it is gone.
    let (end, failed) = match done {
        Err(e @ CommandError::Client { cause: ClientError::Refused { .. }, .. }) => return Err(e),
        Ok(info) => (info.end, None),
        Err(e) => (None, Some(e)),
    };
    wait_until_gone(registry, &entry, failed)?;
    if action.waits_for_guest() {
        writeln!(out, "{}: {}", entry.id, how(end))?;
    }
    Ok(())
}

/// What became of a graceful stop.
fn how(end: Option<CauseKind>) -> String {
    match end {
        Some(CauseKind::Shutdown) => "the guest shut down".into(),
        Some(CauseKind::Overdue) => "the guest did not shut down in time, and was forced".into(),
        Some(other) => format!("it ended otherwise: {other}"),
        None => "it ended".into(),
    }
}

pub(super) fn wait_until_gone(
    registry: &Registry,
    entry: &Entry,
    failed: Option<CommandError>,
) -> Result<(), CommandError> {
    let start = Instant::now();
    while is_there(registry, entry)? {
        if let Some(e) = failed {
            return Err(e);
        }
        if start.elapsed() > ACT {
            return Err(CommandError::Lingers { id: entry.id.clone(), pid: entry.pid });
        }
        std::thread::sleep(RETRY);
    }
    Ok(())
}

/// Whether this very machine still lives: another may have taken its name.
fn is_there(registry: &Registry, entry: &Entry) -> Result<bool, RegistryError> {
    Ok(registry.find(&entry.id)?.is_some_and(|now| now.pid == entry.pid))
}

/// The machine that is meant.
pub(super) fn choose(registry: &Registry, id: Option<&VmId>) -> Result<Entry, CommandError> {
    let mut entries = registry.list()?;
    let running = |entries: Vec<Entry>| entries.into_iter().map(|e| e.id).collect();
    match id {
        Some(id) => match entries.iter().find(|e| e.id == *id) {
            Some(entry) => Ok(entry.clone()),
            None => Err(CommandError::Unknown { id: id.clone(), running: running(entries) }),
        },
        None if entries.len() > 1 => Err(CommandError::Ambiguous(running(entries))),
        None => entries.pop().ok_or(CommandError::None),
    }
}

/// Asks again for a while when the machine is just being started.
pub(super) fn patiently<T>(
    entry: &Entry,
    ask: impl Fn() -> Result<T, ClientError>,
) -> Result<T, CommandError> {
    let start = Instant::now();
    loop {
        match ask() {
            Err(e) if e.is_absent() && start.elapsed() < START && entry_lives(entry) => {
                std::thread::sleep(RETRY);
            }
            done => return done.map_err(|cause| CommandError::Client { id: entry.id.clone(), cause }),
        }
    }
}

/// A machine's directory goes with it.
fn entry_lives(entry: &Entry) -> bool {
    entry.socket.parent().is_some_and(|dir| dir.exists())
}

pub(super) fn print_json(value: &impl Serialize, out: &mut impl Write) -> Result<(), CommandError> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptimes_have_two_units() {
        let cases =
            [(0, "0s"), (59_999, "59s"), (184_000, "3m04s"), (18_360_000, "5h06m"), (183_600_000, "2d03h")];
        for (ms, text) in cases {
            assert_eq!(uptime(ms), text);
        }
    }

    #[test]
    fn the_machine_that_is_meant_is_found_or_the_others_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::at(dir.path()).unwrap();
        let [a, b]: [VmId; 2] = ["a".parse().unwrap(), "b".parse().unwrap()];
        let chosen = |id: Option<&VmId>| choose(&registry, id).map(|e| e.id).map_err(|e| e.to_string());
        assert_eq!(chosen(None), Err("no machine runs".into()));
        assert_eq!(chosen(Some(&a)), Err("no machine named a runs".into()));
        let _first = registry.claim(Some(&a)).unwrap();
        assert_eq!(chosen(None), Ok(a.clone()));
        assert_eq!(chosen(Some(&b)), Err("no machine named b runs (running: a)".into()));
        let _second = registry.claim(Some(&b)).unwrap();
        assert_eq!(chosen(Some(&b)), Ok(b));
        assert_eq!(chosen(None), Err("2 machines run: say which of a, b".into()));
    }
}
