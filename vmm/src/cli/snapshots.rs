//! `drystone snapshot` and `drystone restore`.

use super::args::{RestoreArgs, SnapshotArgs};
use super::ended;
use super::machines::{self, CommandError, LOOK};
use crate::client::Client;
use crate::control::Action;
use crate::registry::Registry;
use crate::run::{self, ExitStatus};
use crate::snapshot::{Restore, RestoreConfigError, SnapshotRequest, Then};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// How often a person is told how far it is.
const TELL: Duration = Duration::from_millis(300);

/// Has a machine written down, and tells how far that is.
pub(super) fn snapshot(
    registry: &Registry,
    args: &SnapshotArgs,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let request = SnapshotRequest {
        dir: absolute(&args.dir)?,
        memory_dir: args.memory_dir.as_deref().map(absolute).transpose()?,
        then: match (args.pause, args.stop) {
            (_, true) => Then::Stop,
            (true, _) => Then::Pause,
            _ => Then::GoOn,
        },
    };
    let entry = machines::choose(registry, Some(&args.id))?;
    let (done, wait) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        if io::stderr().is_terminal() {
            scope.spawn(|| tell(&entry.socket, wait));
        }
        let acted = machines::act(registry, Some(&args.id), Action::Snapshot(request.clone()), out);
        drop(done);
        acted
    })?;
    if request.then == Then::Stop {
        machines::wait_until_gone(registry, &entry, None)?;
    }
    Ok(writeln!(out, "{}: written to {}", args.id, request.dir.display())?)
}

/// The machine may be in another directory.
fn absolute(path: &Path) -> Result<PathBuf, CommandError> {
    std::path::absolute(path).map_err(|cause| CommandError::Path { path: path.into(), cause })
}

/// Tells on the terminal how far the snapshot is, until the other end of `wait` is gone.
fn tell(socket: &Path, wait: mpsc::Receiver<()>) {
    let client = Client::new(socket, LOOK);
    let mut told = false;
    while wait.recv_timeout(TELL) == Err(RecvTimeoutError::Timeout) {
        let progress = client.info().ok().and_then(|info| info.snapshot).filter(|p| p.total > 0);
        if let Some(progress) = progress {
            eprint!("\r{} of {} MiB", progress.done >> 20, progress.total >> 20);
            told = true;
        }
    }
    if told {
        eprintln!();
    }
}

/// Runs a machine from where its snapshot was made.
pub(super) fn restore(args: &RestoreArgs) -> ExitStatus {
    match Restore::prepare(&args.config()) {
        Ok(restore) => ended(run::restore(restore)),
        Err(
            e @ (RestoreConfigError::NoDisk { .. }
            | RestoreConfigError::NoNet { .. }
            | RestoreConfigError::Config(_)),
        ) => ExitStatus { code: ExitStatus::USAGE, message: Some(e.to_string()) },
        Err(e) => ExitStatus::error(e),
    }
}
