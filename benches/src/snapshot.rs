//! A running guest written down and brought back by several VMMs, measured from outside.

use crate::probe;
use crate::process::{MeasureError, Running, cpu_time};
use crate::vmm::{Guest, Kind, Vmm};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A VMM's socket is there after so long, or never.
const PATIENCE: Duration = Duration::from_secs(60);

/// A snapshot of a guest that ticks.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    /// From the request to its answer.
    pub request: Duration,
    /// The longest time between two ticks meanwhile.
    pub pause: Duration,
    /// What it takes on the disk, in bytes.
    pub bytes: u64,
}

/// A restore of it.
#[derive(Debug, Clone, Copy)]
pub struct Restored {
    /// From exec to the guest's first tick.
    pub wall: Duration,
    /// Processor time of the process until then, user and system.
    pub cpu: Duration,
}

/// Boots `guest`, which must be a [ticking](probe::ticking) one, has it written into `scratch`, ends it, and restores it.
///
/// # Errors
/// [`MeasureError`], also for a VMM of which it is not known how that is done.
pub fn cycle(vmm: &Vmm, guest: Guest<'_>, scratch: &Path) -> Result<(Written, Restored), MeasureError> {
    let failed = |attempt| move |cause| MeasureError::Host { attempt, cause };
    let dir = scratch.join("snapshot");
    for left in [dir.as_path(), &scratch.join("vmm.sock")] {
        let _ = if left.is_dir() { fs::remove_dir_all(left) } else { fs::remove_file(left) };
    }
    vmm.prepare(guest, scratch).map_err(failed("write a configuration"))?;
    let mut command = vmm.command(guest, scratch);
    let socket = match vmm.kind {
        Kind::Drystone => {
            command.args(["--id", "bench"]);
            scratch.join("run/bench/control.sock")
        }
        Kind::Firecracker => {
            fs::create_dir(&dir).map_err(failed("make a directory"))?;
            let config = scratch.join("firecracker.json");
            command = Command::new(&vmm.path);
            command.arg("--api-sock").arg(scratch.join("vmm.sock")).arg("--config-file").arg(config);
            scratch.join("vmm.sock")
        }
        _ => return Err(failed("make a snapshot")(io::Error::other(format!("{}: not known how", vmm.name)))),
    };
    let (mut running, _) = Running::start(command)?;
    running.wait_for(probe::STARTED)?;
    running.wait_for(probe::TICK)?;
    let begun = Instant::now();
    for (method, path, body) in requests(vmm.kind, &dir) {
        request(&socket, method, path, &body).map_err(failed("have a snapshot written"))?;
    }
    let answered = Instant::now();
    // The guest goes on.
    while running.wait_for(probe::TICK)? <= answered {}
    let pause = running.longest_gap(begun);
    drop(running);
    let bytes = on_disk(&dir).map_err(failed("look at the snapshot"))?;
    let written = Written { request: answered - begun, pause, bytes };
    Ok((written, restore(vmm, scratch, &dir)?))
}

fn restore(vmm: &Vmm, scratch: &Path, dir: &Path) -> Result<Restored, MeasureError> {
    let mut command = Command::new(&vmm.path);
    let load = match vmm.kind {
        Kind::Drystone => {
            command.arg("restore").arg(dir).env("DRYSTONE_RUNTIME_DIR", scratch.join("run"));
            None
        }
        _ => {
            let socket = scratch.join("restore.sock");
            let _ = fs::remove_file(&socket);
            command.arg("--api-sock").arg(&socket);
            Some(socket)
        }
    };
    let (mut running, begun) = Running::start(command)?;
    if let Some(socket) = load {
        let (state, memory) = (dir.join("state"), dir.join("memory"));
        let (state, memory) = (state.display(), memory.display());
        let body = format!(
            r#"{{"snapshot_path":"{state}","mem_backend":{{"backend_type":"File","backend_path":"{memory}"}},"resume_vm":true}}"#
        );
        let loaded = request(&socket, "PUT", "/snapshot/load", &body);
        loaded.map_err(|cause| MeasureError::Host { attempt: "have a snapshot restored", cause })?;
    }
    let wall = running.wait_for(probe::TICK)?.duration_since(begun);
    Ok(Restored { wall, cpu: cpu_time(running.pid())? })
}

/// What has a VMM pause its guest, write it to `dir`, and let it go on.
fn requests(kind: Kind, dir: &Path) -> Vec<(&'static str, &'static str, String)> {
    let at = dir.display();
    match kind {
        Kind::Drystone => vec![("PUT", "/v1/vm/snapshot", format!(r#"{{"dir":"{at}"}}"#))],
        _ => vec![
            ("PATCH", "/vm", r#"{"state":"Paused"}"#.into()),
            (
                "PUT",
                "/snapshot/create",
                format!(
                    r#"{{"snapshot_type":"Full","snapshot_path":"{at}/state","mem_file_path":"{at}/memory"}}"#
                ),
            ),
            ("PATCH", "/vm", r#"{"state":"Resumed"}"#.into()),
        ],
    }
}

/// One request over HTTP/1.1 to a socket that may not be there yet.
fn request(socket: &Path, method: &str, path: &str, body: &str) -> io::Result<()> {
    let begun = Instant::now();
    let mut stream = loop {
        match UnixStream::connect(socket) {
            Err(_) if begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_micros(100)),
            connected => break connected?,
        }
    };
    let head = "Host: localhost\r\nContent-Type: application/json\r\nAccept: application/json";
    write!(stream, "{method} {path} HTTP/1.1\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    while !answer.windows(4).any(|w| w == b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => break,
            n => answer.extend(buffer.iter().take(n)),
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    match answer.strip_prefix("HTTP/1.1 2") {
        Some(_) => Ok(()),
        None => Err(io::Error::other(format!("{method} {path}: {answer}"))),
    }
}

/// What the files of a directory take.
fn on_disk(dir: &Path) -> io::Result<u64> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.metadata()?.blocks() * 512)).sum()
}
