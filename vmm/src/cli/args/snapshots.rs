//! What `drystone snapshot` and `drystone restore` are asked.

use crate::config::{ConsoleConfig, NetConfig};
use crate::log::Level;
use crate::registry::VmId;
use crate::snapshot::{Clocks, Identity, RestoreConfig, RestoreOptions};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::str::FromStr;

#[derive(Debug, Args)]
pub(in crate::cli) struct SnapshotArgs {
    /// The machine's name
    pub id: VmId,
    /// The directory to make, or the snapshot to replace
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Put guest memory into a file in this directory instead
    #[arg(long, value_name = "DIR")]
    pub memory_dir: Option<PathBuf>,
    /// Leave the machine paused
    #[arg(long, conflicts_with = "stop")]
    pub pause: bool,
    /// End the machine once it is written
    #[arg(long)]
    pub stop: bool,
}

const RESTORE_HELP: &str = "\
Disks are not part of a snapshot: they must be as the guest left them when it was made. --disk says where one is now:
  drystone snapshot web /snapshots/web --stop
  drystone restore /snapshots/web --id web2 --disk root=/clones/web2.img --net net0=tap=web2

Memory is mapped from the snapshot and read as the guest touches it, so any number of machines can be restored from
one, and share the host's cache of it. Its directory may be replaced or removed while they run, but its files must
not be changed.";

#[derive(Debug, Args)]
#[command(after_help = RESTORE_HELP)]
pub(in crate::cli) struct RestoreArgs {
    /// The snapshot
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Name of the machine: up to 63 of a-z, 0-9, '-', '_', '.' [default: made up]
    #[arg(long)]
    pub id: Option<VmId>,
    /// Where a disk is now; may be given more than once [default: where it was]
    #[arg(long, value_name = "NAME=PATH")]
    pub disk: Vec<DiskPath>,
    /// Which network a device is on now, as for drystone run --net; may be given more than once [default: as it was]
    #[arg(long, value_name = "NAME=NETWORK")]
    pub net: Vec<NetPlace>,
    /// Go on although a disk was changed since the snapshot was made
    #[arg(long)]
    pub accept_changed_disks: bool,
    /// Where the file with guest memory is now [default: where it was]
    #[arg(long, value_name = "FILE")]
    pub memory_file: Option<PathBuf>,
    /// Compare all of guest memory with its checksums first, which takes as long as reading it
    #[arg(long)]
    pub verify: bool,
    /// Wait for drystone resume
    #[arg(long)]
    pub paused: bool,
    /// What the guest's clocks make of the time since: go on as if it had slept, or from where they stood
    #[arg(long, value_enum, default_value_t)]
    pub clocks: ClocksArg,
    /// Do not tell the guest that it is another machine now: it has only moved, and nothing else comes from this snapshot
    #[arg(long)]
    pub keep_identity: bool,
    /// The guest's serial console: stdio, none, or file:PATH for its output [default: stdio]
    #[arg(long, value_name = "WHERE")]
    pub console: Option<ConsoleConfig>,
    /// The least grave messages that are logged [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<Level>,
    /// Where the log goes [default: in the machine's runtime directory, while it runs]
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
}

/// [`Clocks`] as they are typed.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(in crate::cli) enum ClocksArg {
    #[default]
    GoOn,
    StandStill,
}

/// Where a disk is: `root=/clones/root.img`.
#[derive(Debug, Clone)]
pub(in crate::cli) struct DiskPath {
    pub name: String,
    pub path: PathBuf,
}

impl FromStr for DiskPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => {
                Ok(Self { name: name.into(), path: path.into() })
            }
            _ => Err("use NAME=PATH, for example root=/clones/root.img".into()),
        }
    }
}

/// Which network a device is on: `net0=tap=vm5`.
#[derive(Debug, Clone)]
pub(in crate::cli) struct NetPlace {
    pub name: String,
    pub network: NetConfig,
}

impl FromStr for NetPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let split = text.split_once('=').filter(|(name, _)| !name.is_empty());
        let (name, network) = split.ok_or("use NAME=NETWORK, for example net0=tap=vm5")?;
        let network: NetConfig = network.parse().map_err(|e: crate::config::FlagError| e.to_string())?;
        if !network.is_only_a_network() {
            return Err("only what the network is can change: auto, user, forward, dns, host_loopback, passt, tap, bridge, fd".into());
        }
        Ok(Self { name: name.into(), network })
    }
}

impl RestoreArgs {
    /// What is asked for.
    pub fn config(&self) -> RestoreConfig {
        RestoreConfig {
            dir: self.dir.clone(),
            memory_file: self.memory_file.clone(),
            verify: self.verify,
            options: RestoreOptions {
                paused: self.paused,
                clocks: match self.clocks {
                    ClocksArg::GoOn => Clocks::GoOn,
                    ClocksArg::StandStill => Clocks::StandStill,
                },
                identity: if self.keep_identity { Identity::Kept } else { Identity::New },
            },
            id: self.id.clone(),
            disks: self.disk.iter().map(|disk| (disk.name.clone(), disk.path.clone())).collect(),
            nets: self.net.iter().map(|net| (net.name.clone(), net.network.clone())).collect(),
            accept_changed_disks: self.accept_changed_disks,
            console: self.console.clone().unwrap_or_default(),
            log_level: self.log_level.unwrap_or_default(),
            log_file: self.log_file.clone(),
        }
    }
}
