//! `drystone cpu`: what a guest sees of this host's processor, and how two hosts differ.

mod compare;
mod report;

use super::args::CpuCommandArgs;
use crate::config::{Config, ConfigError, CpusError};
use crate::run::ExitStatus;
use drystone_hypervisor::{Cpuid, Hypervisor};
use drystone_kvm::Kvm;
use drystone_vcpu::cpuid::ModelError;
use report::Report;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub(super) enum CpuError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cpus: {0}")]
    Cpus(#[from] CpusError),
    #[error("cpu: {0}")]
    Model(#[from] ModelError),
    #[error(transparent)]
    Hypervisor(#[from] drystone_hypervisor::Error),
    #[error("{}: {what}", path.display())]
    File { path: PathBuf, what: String },
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
}

/// Two processors are not alike: as `diff` and `cmp` say it.
const DIFFERENT: u8 = 1;

/// Does what `args` ask for.
pub(super) fn cpu(args: &CpuCommandArgs, out: &mut impl Write) -> ExitStatus {
    match told(args, out) {
        Ok(code) => ExitStatus { code, message: None },
        // Whoever reads has seen enough.
        Err(CpuError::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => ExitStatus::ok(),
        Err(e @ (CpuError::Config(ConfigError::Read { .. }) | CpuError::Hypervisor(_)))
            if args.compare.is_empty() =>
        {
            ExitStatus::error(e)
        }
        Err(e @ CpuError::Model(_)) if args.compare.is_empty() => ExitStatus::error(e),
        Err(e) => ExitStatus { code: ExitStatus::USAGE, message: Some(e.to_string()) },
    }
}

fn told(args: &CpuCommandArgs, out: &mut impl Write) -> Result<u8, CpuError> {
    if let [first, second] = args.compare.as_slice() {
        return told_apart(&Report::read(first)?, &Report::read(second)?, (name(first), name(second)), out);
    }
    let report = Report::new(&config(args)?, &host(args)?)?;
    match args.compare.first() {
        Some(other) => {
            return told_apart(&report, &Report::read(other)?, ("this host".into(), name(other)), out);
        }
        None if args.json => report.json(out)?,
        None if args.raw => report.raw(out)?,
        None => report.text(out)?,
    }
    out.flush()?;
    Ok(ExitStatus::OK)
}

fn told_apart(
    first: &Report,
    second: &Report,
    names: (String, String),
    out: &mut impl Write,
) -> Result<u8, CpuError> {
    let equal = compare::text(first, second, (&names.0, &names.1), out)?;
    out.flush()?;
    Ok(if equal { ExitStatus::OK } else { DIFFERENT })
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

/// The file's part that matters here, with the flags over it.
fn config(args: &CpuCommandArgs) -> Result<Config, CpuError> {
    let mut config = args.config.as_deref().map(Config::from_file).transpose()?.unwrap_or_default();
    if let Some(cpus) = args.cpus {
        config.cpus = cpus;
    }
    args.cpu.apply(&mut config.cpu);
    Ok(config)
}

/// What the host offers: this one, or one that was recorded.
fn host(args: &CpuCommandArgs) -> Result<Cpuid, CpuError> {
    match &args.host {
        Some(path) => Ok(Report::read(path)?.host),
        None => Ok(Kvm::open()?.supported_cpuid()?),
    }
}
