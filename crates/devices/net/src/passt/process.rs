//! Starts passt: it sets up its sandbox, and goes into the background once it is ready. It ends by itself when its socket closes, so
//! it outlives nobody, whatever became of this process.
use super::{Forward, PasstConfig, PasstError, Protocol};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
use std::ffi::OsString;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to be ready.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is kept of what it says, in bytes.
const MOST: usize = 16 << 10;

/// One that runs.
pub(super) struct Started {
    /// Our end of its socket.
    pub socket: OwnedFd,
    /// What it said.
    pub messages: Vec<String>,
}

pub(super) fn start(config: &PasstConfig) -> Result<Started, PasstError> {
    let program = config.program.clone().unwrap_or_else(|| PathBuf::from("passt"));
    let failed = |cause| PasstError::Start { program: program.clone(), cause };
    let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = pair.map_err(|e| failed(e.into()))?;
    // What is granted will do.
    let _ = sockopt::set_socket_send_buffer_size(&theirs, super::SEND_BUFFER);
    // Inherited under its own number. Another program that this process starts in this very moment would have it too, and at worst
    // hide from us that passt is gone; in return this needs no code between fork and exec, and no copy of our page tables.
    fcntl_setfd(&theirs, FdFlags::empty()).map_err(|e| failed(e.into()))?;
    let spawned = Command::new(&program)
        .args(arguments(config))
        .args(["--fd", &theirs.as_raw_fd().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    drop(theirs);
    let mut child = spawned.map_err(failed)?;
    let (text, status) = match wait(&mut child) {
        Ok(outcome) => outcome,
        Err(cause) => {
            end(&mut child);
            return Err(failed(cause));
        }
    };
    let messages = messages(&text);
    match status {
        Some(status) if status.success() => Ok(Started { socket: ours, messages }),
        Some(_) => Err(PasstError::Refused { program, messages }),
        None => {
            end(&mut child);
            Err(PasstError::Slow { program, seconds: PATIENCE.as_secs(), messages })
        }
    }
}

/// What passt is told, but for its socket.
fn arguments(config: &PasstConfig) -> Vec<OsString> {
    let PasstConfig {
        socket: _,
        program: _,
        forwards,
        mtu,
        addresses,
        prefix,
        gateways,
        dns,
        interface,
        host_loopback,
        log_file,
    } = config;
    let mut all: Vec<OsString> = vec!["--quiet".into()];
    let mut add = |option: &str, value: OsString| all.extend([option.into(), value]);
    add("--mtu", mtu.unwrap_or(super::Passt::MTU).to_string().into());
    for (option, list) in [("--address", addresses), ("--gateway", gateways), ("--dns", dns)] {
        list.iter().for_each(|address| add(option, address.to_string().into()));
    }
    if let Some(prefix) = prefix {
        add("--netmask", prefix.to_string().into());
    }
    if let Some(interface) = interface {
        add("--interface", interface.into());
    }
    if let Some(path) = log_file {
        add("--log-file", path.into());
    }
    for (option, protocol) in [("--tcp-ports", Protocol::Tcp), ("--udp-ports", Protocol::Udp)] {
        let mut some = false;
        for forward in forwards.iter().filter(|forward| forward.protocol == protocol) {
            add(option, specification(forward).into());
            some = true;
        }
        if !some {
            // Else those of the other protocol may be forwarded as well.
            add(option, "none".into());
        }
    }
    if !host_loopback {
        all.push("--no-map-gw".into());
    }
    all
}

fn specification(forward: &Forward) -> String {
    let Forward { protocol: _, address, host, guest } = forward;
    let on = address.map(|address: IpAddr| format!("{address}/")).unwrap_or_default();
    format!("{on}{host}:{guest}")
}

/// Reads what it says until it ends, or goes into the background. Without a status it took too long.
fn wait(child: &mut Child) -> io::Result<(Vec<u8>, Option<ExitStatus>)> {
    let (mut text, until) = (Vec::new(), Instant::now() + PATIENCE);
    let Some(mut stderr) = child.stderr.take() else { return Ok((text, child.wait().map(Some)?)) };
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::new(&stderr, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok((text, None)),
            Err(Errno::INTR) => continue,
            other => other?,
        };
        let mut piece = [0; 4096];
        match stderr.read(&mut piece) {
            // The process that was started is about to end, as it has closed it.
            Ok(0) => return Ok((text, child.wait().map(Some)?)),
            Ok(len) if text.len() < MOST => text.extend(piece.iter().take(len)),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn end(child: &mut Child) {
    // It may have ended meanwhile; either way it is waited for.
    let _ = child.kill();
    let _ = child.wait();
}

/// Its lines, without what means nothing.
fn messages(text: &[u8]) -> Vec<String> {
    let noise = |line: &&str| {
        line.is_empty() || line.ends_with("to syslog") || line.starts_with("Don't run as root.")
    };
    let text = String::from_utf8_lossy(text);
    text.lines().map(str::trim).filter(|line| !noise(line)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
