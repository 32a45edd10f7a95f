//! The command line.

mod args;
mod cpu;
mod events;
mod images;
mod machines;
mod snapshots;
mod time;

use crate::config::{ConfigError, LimitSettings};
use crate::control::{Action, DEFAULT_REMOVAL_TIME, DEFAULT_SHUTDOWN_TIME, Limited};
use crate::monitor::Removal;
use crate::registry::Registry;
use crate::run::{self, ExitStatus, RunError};
use args::{
    Command, Direction, DiskAddArgs, DiskArgs, DiskCommand, DiskLimitArgs, DiskRemoveArgs, DiskResizeArgs,
    EventsArgs, IdArgs, MetricsArgs, NetAddArgs, NetArgs, NetCommand, NetLimitArgs, NetRemoveArgs, NmiArgs,
    RngArgs, RngCommand, RngLimitArgs, RunArgs, StopArgs,
};
use clap::error::ErrorKind;
use machines::CommandError;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};

/// Does what the command line says, prints what there is to say, and returns the exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let status = match Command::parse(args) {
        Ok(wanted) => command(wanted),
        Err(e) => unparsed(&e),
    };
    if let Some(message) = status.message {
        complain(&message);
    }
    status.code
}

fn command(command: Command) -> ExitStatus {
    let act =
        |id: IdArgs, action| speak(|registry, out| machines::act(registry, id.id.as_ref(), action, out));
    match command {
        Command::Run(args) => run(&args),
        Command::Ls(args) => speak(|registry, out| machines::ls(registry, args.json, out)),
        Command::Info(args) => {
            speak(|registry, out| machines::info(registry, args.id.id.as_ref(), args.json.json, out))
        }
        Command::Events(EventsArgs { id, follow, json }) => {
            speak(|registry, out| events::events(registry, id.id.as_ref(), follow, json.json, out))
        }
        Command::Metrics(MetricsArgs { id, prefix, json }) => {
            speak(|registry, out| machines::metrics(registry, &id, &prefix, json.json, out))
        }
        Command::Cpu(args) => cpu::cpu(&args, &mut io::stdout()),
        Command::Pause(id) => act(id, Action::Pause),
        Command::Resume(id) => act(id, Action::Resume),
        Command::Power(id) => act(id, Action::Power),
        Command::CtrlAltDel(id) => act(id, Action::CtrlAltDel),
        Command::Nmi(NmiArgs { id, cpu }) => act(id, Action::Nmi { cpu }),
        Command::Reset(id) => act(id, Action::Reset),
        Command::Snapshot(args) => speak(|registry, out| snapshots::snapshot(registry, &args, out)),
        Command::CancelSnapshot(id) => act(id, Action::CancelSnapshot),
        Command::Restore(args) => snapshots::restore(&args),
        Command::Disk(DiskArgs { command }) => match command {
            DiskCommand::Create(args) => printed(|out| images::create(&args, out)),
            DiskCommand::Info(args) => printed(|out| images::info(&args, out)),
            DiskCommand::Add(DiskAddArgs { id, mut disk }) => {
                // The machine may have been started elsewhere.
                disk.path = std::path::absolute(&disk.path).unwrap_or(disk.path);
                act(IdArgs { id: Some(id) }, Action::DiskAdd(Box::new(disk)))
            }
            DiskCommand::Remove(DiskRemoveArgs { id, disk, surprise, timeout }) => {
                let patience = timeout.map_or(DEFAULT_REMOVAL_TIME, |t| t.0);
                let removal = if surprise { Removal::Surprise } else { Removal::Orderly { patience } };
                act(IdArgs { id: Some(id) }, Action::DiskRemove { disk, removal })
            }
            DiskCommand::Resize(DiskResizeArgs { id, disk, size }) => {
                act(IdArgs { id: Some(id) }, Action::DiskResize { disk, size })
            }
            DiskCommand::Limit(DiskLimitArgs { id, disk, group, limit }) => {
                let what = group.map(Limited::Group).unwrap_or(Limited::Disk(disk.unwrap_or_default()));
                act(IdArgs { id: Some(id) }, Action::DiskLimit { what, limit: limit.into() })
            }
        },
        Command::Net(NetArgs { command }) => match command {
            NetCommand::Add(args) => {
                let NetAddArgs { id, net } = *args;
                act(IdArgs { id: Some(id) }, Action::NetAdd(Box::new(net)))
            }
            NetCommand::Remove(NetRemoveArgs { id, net, surprise, timeout }) => {
                let patience = timeout.map_or(DEFAULT_REMOVAL_TIME, |t| t.0);
                let removal = if surprise { Removal::Surprise } else { Removal::Orderly { patience } };
                act(IdArgs { id: Some(id) }, Action::NetRemove { net, removal })
            }
            NetCommand::Link(args) => {
                let up = args.up();
                act(IdArgs { id: Some(args.id) }, Action::NetLink { net: args.net, up })
            }
            NetCommand::Limit(NetLimitArgs { id, net, direction, limit }) => {
                let limit = LimitSettings::from(limit);
                let rx = (direction != Direction::Tx).then_some(limit);
                let tx = (direction != Direction::Rx).then_some(limit);
                act(IdArgs { id: Some(id) }, Action::NetLimit { net, rx, tx })
            }
        },
        Command::Rng(RngArgs { command: RngCommand::Limit(RngLimitArgs { id, limit }) }) => {
            act(id, Action::RngLimit(limit.into()))
        }
        Command::Stop(StopArgs { id, graceful: false, .. }) => act(id, Action::Stop),
        Command::Stop(StopArgs { id, timeout, .. }) => {
            let timeout = timeout.map_or(DEFAULT_SHUTDOWN_TIME, |t| t.0);
            act(id, Action::StopGracefully { timeout })
        }
    }
}

fn run(args: &RunArgs) -> ExitStatus {
    let usage = |e: ConfigError| ExitStatus { code: ExitStatus::USAGE, message: Some(e.to_string()) };
    let config = match args.config() {
        Ok(config) => config,
        Err(e @ ConfigError::Read { .. }) => return ExitStatus::error(e),
        Err(e) => return usage(e),
    };
    if args.dump_config {
        return printed(|out| Ok(out.write_all(config.to_toml().as_bytes())?));
    }
    ended(run::run(&config))
}

/// How a machine that was run ended, or why it was not run.
fn ended(result: Result<ExitStatus, RunError>) -> ExitStatus {
    result.unwrap_or_else(|e| match e {
        RunError::Config(e) => ExitStatus { code: ExitStatus::USAGE, message: Some(e.to_string()) },
        e => ExitStatus::error(e),
    })
}

fn speak(command: impl FnOnce(&Registry, &mut io::Stdout) -> Result<(), CommandError>) -> ExitStatus {
    printed(|out| command(&Registry::from_env()?, out))
}

fn printed(print: impl FnOnce(&mut io::Stdout) -> Result<(), CommandError>) -> ExitStatus {
    let mut out = io::stdout();
    let done = print(&mut out).and_then(|()| Ok(out.flush()?));
    match done {
        // Whoever reads has seen enough: `drystone ls | head -1`.
        Err(CommandError::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => ExitStatus::ok(),
        done => done.map_or_else(ExitStatus::error, |()| ExitStatus::ok()),
    }
}

/// Help and version go to stdout, anything else is one line.
fn unparsed(e: &clap::Error) -> ExitStatus {
    match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody is there to be told that the help cannot be printed.
            let _ = e.print();
            ExitStatus::ok()
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = e.print();
            ExitStatus { code: ExitStatus::USAGE, message: None }
        }
        _ => {
            let text = e.render().to_string();
            // clap explains in paragraphs: what is wrong, tips, usage.
            let paragraphs = text.split("\n\n").take_while(|p| !p.trim_start().starts_with("Usage:"));
            let lines = paragraphs.flat_map(str::lines).map(str::trim).filter(|l| !l.is_empty());
            let lines = lines.filter(|l| !l.starts_with("For more information"));
            let line = lines.collect::<Vec<_>>().join("; ").replace(":; ", ": ");
            let line = line.strip_prefix("error: ").unwrap_or(&line);
            ExitStatus { code: ExitStatus::USAGE, message: Some(format!("{line} (see drystone --help)")) }
        }
    }
}

/// One line on stderr; its beginning is red on a terminal.
fn complain(message: &str) {
    let mut err = io::stderr().lock();
    let red = err.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let name = if red { "\x1b[31mdrystone:\x1b[0m" } else { "drystone:" };
    // A message may quote a path or a file; a terminal must not obey it.
    let message: String = message
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect();
    let _ = writeln!(err, "{name} {message}");
}
