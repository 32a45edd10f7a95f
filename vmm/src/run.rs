//! Running a machine from its configuration to its end: name, log, machine, control socket, terminal, signals.

mod console;
mod door;
mod engine;
mod exit;
mod exits;
mod inbox;
mod kvm;
mod panic;
mod signals;

pub use console::ConsoleError;
pub use engine::{Built, Engine, Serve};
pub use exit::ExitStatus;
pub use kvm::{KvmEngine, RestoreEngine};

use crate::config::{Config, ConfigError, ConsoleConfig};
use crate::console::{Escape, Terminal};
use crate::control::{Action, ServeError, Socket, Verbs};
use crate::log::Log;
use crate::monitor::End;
use crate::registry::{Claim, Registry, RegistryError};
use crate::snapshot::Restore;
use door::Door;
use inbox::{Event, Inbox};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A machine that was told to end gets so long; then the process ends without it.
const STOP_TIME: Duration = Duration::from_secs(10);

/// Why a machine was not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no directory for it, or its name is taken.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The log cannot be written.
    #[error("log {}: cannot open: {cause}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
    /// The machine cannot be made.
    #[error("{0}")]
    Machine(String),
    /// There is no control socket.
    #[error(transparent)]
    Control(#[from] ServeError),
    /// There is no console.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The host gives no thread or no descriptor.
    #[error("cannot {attempt}: {cause}")]
    Host {
        /// What was tried.
        attempt: &'static str,
        /// What the host said.
        cause: io::Error,
    },
}

/// Runs a machine on `/dev/kvm` and returns when it has ended: [`run_with`] the [`KvmEngine`].
///
/// # Errors
/// [`RunError`]; nothing is left behind.
pub fn run(config: &Config) -> Result<ExitStatus, RunError> {
    run_with(config, &KvmEngine)
}

/// Has a machine go on from a snapshot on `/dev/kvm`, and returns when it has ended: [`run_with`] a [`RestoreEngine`].
///
/// # Errors
/// [`RunError`]; nothing is left behind.
pub fn restore(restore: Restore) -> Result<ExitStatus, RunError> {
    let Restore { snapshot, config, options } = restore;
    run_with(&config, &RestoreEngine { snapshot, options })
}

/// Runs a machine that `engine` makes, and returns when it has ended.
///
/// It belongs to the process: it serves its signals, its panics, its terminal. While it runs the machine is listed in
/// the registry that the environment names. However it ends, the terminal is as it was, and the directory is gone.
///
/// # Errors
/// [`RunError`] when there is nothing to run; nothing is left behind.
pub fn run_with(config: &Config, engine: &dyn Engine) -> Result<ExitStatus, RunError> {
    config.validate()?;
    let host = |attempt| move |cause| RunError::Host { attempt, cause };
    let terminal = match config.console {
        ConsoleConfig::Stdio => Terminal::of(rustix::stdio::stdin()).map_err(host("look at the terminal"))?,
        _ => None,
    };
    // First of all, so that nothing that is made below outlives a signal.
    let mut inbox = Inbox::new().map_err(host("take signals"))?;
    // Validated above.
    let id = config.id.as_ref().and_then(|id| id.parse().ok());
    let claim = Registry::from_env()?.claim(id.as_ref())?;
    let log = open_log(config, &claim)?;
    let _panics = panic::PanicGuard::install(terminal.clone(), log.clone(), inbox.post());
    log.info(format_args!("drystone {} makes {}", env!("CARGO_PKG_VERSION"), claim.id()));

    // Whatever can be wrong with what the user asked for is found before the guest begins …
    let built = engine.build(config, claim.id(), &log).map_err(RunError::Machine)?;
    let socket = Socket::bind(&claim.socket())?;
    let console = console::Place::open(&config.console)?;
    let serve = (built.begin)().map_err(RunError::Machine)?;
    // … and what it does not need to begin comes when it has: until it is read, what it says waits in the serial port.
    if let Some(terminal) = &terminal {
        eprintln!("drystone: {}: Ctrl-A x stops it, Ctrl-A h helps", claim.id());
        inbox.control_jobs(terminal.clone()).map_err(host("take signals"))?;
    }
    let session = console.connect(terminal.as_ref(), built.input, built.output, inbox.post())?;
    let mut door = Door::new(socket, built.verbs.clone(), log.clone());
    let monitor = {
        let post = inbox.post();
        let monitor = std::thread::Builder::new().name("monitor".into());
        monitor.spawn(move || post.send(Event::Ended(caught(serve)))).map_err(host("start the monitor"))?
    };

    let (status, gone) = supervise(&mut inbox, &mut door, &built.verbs, &*built.end, &log);
    if gone {
        let _ = monitor.join();
        log.debug("the machine is gone");
    }
    if !session.finish() {
        log.warn("some of the guest's last output was lost");
    }
    log.info(format_args!("exit code {}", status.code));
    // Now those who asked for the end get their answer; then the name is free.
    drop(door);
    drop(claim);
    Ok(status)
}

/// Serves the machine to its end, also if that is a panic, which the hook has reported.
fn caught(serve: Serve) -> Result<End, String> {
    // Nothing of it is used afterwards.
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(serve));
    ended.unwrap_or_else(|_| Err("the machine's monitor failed".into()))
}

fn open_log(config: &Config, claim: &Claim) -> Result<Log, RunError> {
    let path = config.log_file.clone().unwrap_or_else(|| claim.log());
    Log::open(&path, config.log_level).map_err(|cause| RunError::Log { path, cause })
}

/// Waits for the machine's end, and brings it about when asked to. The second value says whether the machine is gone.
fn supervise(
    inbox: &mut Inbox,
    door: &mut Door,
    verbs: &Arc<dyn Verbs>,
    end: &dyn Fn(),
    log: &Log,
) -> (ExitStatus, bool) {
    let pressing = Arc::new(AtomicBool::new(false));
    // How the run ends, if that is decided already, and until when the machine may take to follow.
    let mut decided: Option<(ExitStatus, Instant)> = None;
    loop {
        let status = match inbox.next(decided.as_ref().map(|(_, deadline)| *deadline), door.knocker()) {
            Some(Event::Ended(result)) => return (conclude(decided, result), true),
            Some(Event::Escape(Escape::PowerButton)) => {
                press(verbs, &pressing, log);
                continue;
            }
            Some(Event::Knock) => {
                door.open();
                continue;
            }
            Some(Event::Escape(_)) if decided.is_some() => continue,
            Some(Event::Escape(_)) => ExitStatus::ok(),
            Some(Event::Signal(n)) => {
                log.info(format_args!("signal {n}"));
                ExitStatus::signal(n)
            }
            Some(Event::Panic) => ExitStatus { code: ExitStatus::ERROR, message: None },
            None => {
                let why = format!("the machine did not end within {} seconds", STOP_TIME.as_secs());
                log.error(&why);
                return (ExitStatus::error(why), false);
            }
        };
        match decided {
            None => {
                decided = Some((status, Instant::now() + STOP_TIME));
                end();
            }
            // Asked twice: the user is in a hurry.
            Some((first, _)) => return (first, false),
        }
    }
}

fn conclude(decided: Option<(ExitStatus, Instant)>, result: Result<End, String>) -> ExitStatus {
    let ended = match &result {
        Ok(end) => ExitStatus::of(end),
        Err(why) => ExitStatus::error(why),
    };
    match decided {
        // A guest that broke meanwhile is worth more than the wish to leave it.
        Some((status, _)) if ended.code == ExitStatus::OK || status.code != ExitStatus::OK => status,
        _ => ended,
    }
}

/// Presses the power button beside, because a verb may take its time; one at a time.
fn press(verbs: &Arc<dyn Verbs>, pressing: &Arc<AtomicBool>, log: &Log) {
    if pressing.swap(true, Ordering::AcqRel) {
        return;
    }
    let (verbs, pressed, to) = (verbs.clone(), pressing.clone(), log.clone());
    let press = move || {
        if let Err(e) = verbs.act(Action::Power) {
            to.warn(e);
        }
        pressed.store(false, Ordering::Release);
    };
    if let Err(e) = std::thread::Builder::new().name("power-button".into()).spawn(press) {
        log.warn(format_args!("cannot press the power button: {e}"));
        pressing.store(false, Ordering::Release);
    }
}
