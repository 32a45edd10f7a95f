//! Ending everything that a job has started, wherever it has hidden.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// How long killed processes may take to disappear.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the processes of a job are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Containment {
    /// They are in a cgroup (version 2) of their own.
    Cgroup(PathBuf),
    /// They carry an environment variable with a value that nobody else has; needs no privilege.
    Marker(String),
}

impl Containment {
    /// Makes a cgroup.
    pub(crate) fn cgroup(path: &Path) -> io::Result<Self> {
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(Self::Cgroup(path.into())),
        }
    }

    /// The file by which a process joins, if that is how it goes.
    pub(super) fn join(&self) -> io::Result<Option<OwnedFd>> {
        match self {
            Self::Marker(_) => Ok(None),
            Self::Cgroup(path) => {
                Ok(Some(fs::OpenOptions::new().write(true).open(path.join("cgroup.procs"))?.into()))
            }
        }
    }

    /// Kills every process of the job, and waits for its first one.
    pub(super) fn kill_all(&self, child: &mut Child) {
        let _ = child.kill();
        match self {
            Self::Cgroup(path) => kill_cgroup(path),
            Self::Marker(marker) => {
                if let Some(leader) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                    let _ = kill_process_group(leader, Signal::KILL);
                }
                kill_marked(marker);
            }
        }
        let _ = child.wait();
    }
}

fn kill_cgroup(path: &Path) {
    let begun = Instant::now();
    let _ = fs::write(path.join("cgroup.kill"), "1");
    let populated =
        || fs::read_to_string(path.join("cgroup.events")).is_ok_and(|text| text.contains("populated 1"));
    while populated() && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Kills the processes that have `marker` ("NAME=value") in the environment that they were started with.
///
/// Whoever is killed may just have made another one, so this goes on until none is left.
pub(crate) fn kill_marked(marker: &str) {
    let begun = Instant::now();
    loop {
        let marked = marked(marker);
        for pid in &marked {
            let _ = kill_process(*pid, Signal::KILL);
        }
        if marked.is_empty() || begun.elapsed() > PATIENCE {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn marked(marker: &str) -> Vec<Pid> {
    let own = rustix::process::getpid();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    pids.filter(|pid| *pid != own && carries(*pid, marker)).collect()
}

fn carries(pid: Pid, marker: &str) -> bool {
    let environment = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == marker.as_bytes())
}
