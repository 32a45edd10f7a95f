//! `drystone-lab run`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use drystone_lab::{Cancel, Job, Lab, Outcome, Progress};

use super::parse_size;

#[derive(Debug, Args)]
pub struct Run {
    /// Kill everything in the job after this many seconds; 0 is never. Default: 120, with --tty never.
    #[arg(short = 't', long = "time-limit", value_name = "SECONDS")]
    limit: Option<f64>,
    /// Put a file or directory into the job's directory, under its own or another name.
    #[arg(short = 'f', long = "file", value_name = "PATH[:NAME]")]
    files: Vec<String>,
    /// Bring a file or directory back from the job's directory when the command has ended, in any way.
    #[arg(short = 'o', long = "output", value_name = "NAME[:DEST]")]
    outputs: Vec<String>,
    /// Set an environment variable of the command.
    #[arg(short = 'e', long = "env", value_name = "NAME=VALUE")]
    environment: Vec<String>,
    /// Pass standard input on; the command's is empty otherwise.
    #[arg(short = 'i', long = "interactive")]
    interactive: bool,
    /// Give the command a terminal; Ctrl-] three times in a row ends the job.
    #[arg(long)]
    tty: bool,
    /// The memory of the emulated machine.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "2G")]
    memory: u64,
    /// The processors of the emulated machine. Several guests at once fail now and then on more than one.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    processors: u8,
    /// The command and its arguments. A single one is a script for `sh -c`.
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Run {
    pub fn execute(self) -> anyhow::Result<i32> {
        let mut job = command(&self.command)
            .memory(self.memory)
            .processors(self.processors)
            .time_limit(limit(self.limit, self.tty)?);
        for file in &self.files {
            let (path, name) = split(file);
            job = job.file(
                path,
                name.context(format!("{file:?} has no name to be called by in the job: use PATH:NAME"))?,
            );
        }
        for output in &self.outputs {
            let (name, destination) = output.split_once(':').unwrap_or((output, ""));
            let own = || Path::new(name).file_name().map(PathBuf::from);
            let destination = if destination.is_empty() { own() } else { Some(destination.into()) };
            job = job.output(name, destination.context(format!("{output:?} names no file"))?);
        }
        for variable in &self.environment {
            let (name, value) =
                variable.split_once('=').context(format!("{variable:?} is not NAME=VALUE"))?;
            job = job.env(name, value);
        }
        if self.interactive {
            job = job.inherit_stdin();
        }
        if self.tty {
            job = job.terminal();
        }
        finish(job)
    }
}

/// Runs a job in the lab with its output passed on; gives its exit code.
fn finish(job: Job) -> anyhow::Result<i32> {
    let progress = Progress::stderr();
    let lab = prepare(&progress)?;
    launch(job, &lab, progress)
}

/// The lab, with this program as its agent.
pub fn prepare(progress: &Progress) -> anyhow::Result<Lab> {
    Ok(Lab::prepare_with_agent(Path::new("/proc/self/exe"), progress)?)
}

/// Runs a job with its output passed on, and ends it on a signal; gives its exit code.
pub fn launch(job: Job, lab: &Lab, progress: Progress) -> anyhow::Result<i32> {
    let cancel = Cancel::on_signals().context("cannot watch for signals")?;
    let outcome = job.inherit_output().cancel(&cancel).progress(progress).run(lab)?;
    explain(&outcome);
    Ok(outcome.code)
}

fn explain(outcome: &Outcome) {
    if let Some(cause) = &outcome.not_started {
        eprintln!("lab: {cause}");
    } else if outcome.timed_out {
        eprintln!("lab: the job's time was up, everything in it was killed");
    }
}

fn command(words: &[String]) -> Job {
    match words {
        [script] => Job::shell(script),
        [program, arguments @ ..] => Job::new(program).args(arguments),
        [] => Job::shell(""),
    }
}

fn limit(given: Option<f64>, tty: bool) -> anyhow::Result<Option<Duration>> {
    match given {
        None if tty => Ok(None),
        None => Ok(Some(Duration::from_secs(120))),
        Some(0.0) => Ok(None),
        Some(seconds) => Duration::try_from_secs_f64(seconds).map(Some).context("the time limit"),
    }
}

/// Parts `PATH:NAME`. A path with a colon that exists is taken as it is.
fn split(file: &str) -> (PathBuf, Option<String>) {
    let path = Path::new(file);
    if let (false, Some((path, name))) = (path.exists(), file.rsplit_once(':')) {
        return (path.into(), Some(name.into()));
    }
    let real = path.canonicalize().unwrap_or_else(|_| path.into());
    let named = path.file_name().or(real.file_name());
    (path.into(), named.map(|name| name.to_string_lossy().into_owned()))
}
