use crate::config::{Config, ConfigError, ConsoleConfig, NetConfig};
use crate::log::Level;
use crate::registry::VmId;
use drystone_chipset::Identity;
use drystone_hypervisor::Clocks;
use drystone_snapshot::{Changed, OpenError, Progress, Snapshot};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How a snapshot is to be restored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreConfig {
    /// Its directory.
    pub dir: PathBuf,
    /// Where guest memory is, if it was moved.
    pub memory_file: Option<PathBuf>,
    /// Compare all of guest memory with its checksums first.
    pub verify: bool,
    /// What the machine makes of it.
    pub options: RestoreOptions,
    /// Name of the machine; one is made up unless given.
    pub id: Option<VmId>,
    /// Disks that lie elsewhere now, by name.
    pub disks: BTreeMap<String, PathBuf>,
    /// Network devices that are on another network now, by name: of each only what the network is.
    pub nets: BTreeMap<String, NetConfig>,
    /// Go on although a disk was changed since; the guest is told nothing of it.
    pub accept_changed_disks: bool,
    /// Where the guest's serial console is.
    pub console: ConsoleConfig,
    /// The least grave messages that go to the log.
    pub log_level: Level,
    /// Where the log goes.
    pub log_file: Option<PathBuf>,
}

/// What a machine makes of having been restored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// Wait to be resumed.
    pub paused: bool,
    /// What the guest's clocks make of the time since the snapshot.
    pub clocks: Clocks,
    /// Whether the guest is told that it is another machine now.
    pub identity: Identity,
}

/// Why a snapshot is not restored. Nothing was made of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreConfigError {
    /// It cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It is not one of this program's.
    #[error("snapshot {}: its configuration is not this program's: {cause}", dir.display())]
    Foreign {
        /// Its directory.
        dir: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// What is asked for makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A disk was named that the machine does not have.
    #[error("the machine in the snapshot has no disk `{name}`{}", list(.known))]
    NoDisk {
        /// What was named.
        name: String,
        /// Those that it has.
        known: Vec<String>,
    },
    /// A network device was named that the machine does not have.
    #[error("the machine in the snapshot has no network device `{name}`{}", list(.known))]
    NoNet {
        /// What was named.
        name: String,
        /// Those that it has.
        known: Vec<String>,
    },
    /// A disk is not as the guest left it.
    #[error("disk {changed}{}", hint(.changed))]
    Disk {
        /// How it differs.
        changed: Changed,
    },
}

fn list(known: &[String]) -> String {
    match known {
        [] => ": it has none".into(),
        known => format!(" (it has {})", known.join(", ")),
    }
}

fn hint(changed: &Changed) -> &'static str {
    match changed {
        Changed::Gone { .. } => "; --disk NAME=PATH says where it is now",
        _ => {
            "; a guest that goes on over another content loses data: --accept-changed-disks does it all the same"
        }
    }
}

/// A snapshot that was opened, and the configuration of the machine that it becomes.
pub struct Restore {
    /// What is restored.
    pub snapshot: Snapshot,
    /// The machine's configuration, with everything outside where it is now.
    pub config: Config,
    /// What the machine makes of it.
    pub options: RestoreOptions,
}

impl Restore {
    /// Opens what `wanted` names, and looks at everything that can be looked at without making a machine.
    ///
    /// # Errors
    /// [`RestoreConfigError`].
    pub fn prepare(wanted: &RestoreConfig) -> Result<Self, RestoreConfigError> {
        let snapshot = Snapshot::open_with(&wanted.dir, wanted.memory_file.as_deref())?;
        if wanted.verify {
            snapshot.verify(&Progress::new())?;
        }
        let foreign = |e: serde_json::Error| RestoreConfigError::Foreign {
            dir: wanted.dir.clone(),
            cause: e.to_string(),
        };
        let mut config: Config =
            serde_json::from_value(snapshot.manifest().config.clone()).map_err(foreign)?;
        config.id = wanted.id.as_ref().map(ToString::to_string);
        config.console = wanted.console.clone();
        (config.log_level, config.log_file) = (wanted.log_level, wanted.log_file.clone());
        move_disks(&mut config, &wanted.disks)?;
        move_nets(&mut config, &wanted.nets)?;
        config.validate()?;
        check_disks(&snapshot, wanted)?;
        Ok(Self { snapshot, config, options: wanted.options })
    }
}

fn move_disks(config: &mut Config, moved: &BTreeMap<String, PathBuf>) -> Result<(), RestoreConfigError> {
    let names: Vec<_> = config.disk.iter().enumerate().map(|(index, disk)| disk.name(index)).collect();
    if let Some(name) = moved.keys().find(|name| !names.contains(name)) {
        return Err(RestoreConfigError::NoDisk { name: name.clone(), known: names });
    }
    for (disk, name) in config.disk.iter_mut().zip(names) {
        if let Some(path) = moved.get(&name) {
            disk.path = path.clone();
        }
    }
    Ok(())
}

fn move_nets(config: &mut Config, moved: &BTreeMap<String, NetConfig>) -> Result<(), RestoreConfigError> {
    let names: Vec<_> = config.net.iter().enumerate().map(|(index, net)| net.name(index)).collect();
    if let Some(name) = moved.keys().find(|name| !names.contains(name)) {
        return Err(RestoreConfigError::NoNet { name: name.clone(), known: names });
    }
    for (net, name) in config.net.iter_mut().zip(names) {
        if let Some(network) = moved.get(&name) {
            net.carry_over(network);
        }
    }
    Ok(())
}

fn check_disks(snapshot: &Snapshot, wanted: &RestoreConfig) -> Result<(), RestoreConfigError> {
    for disk in &snapshot.manifest().outside {
        let moved = wanted.disks.get(&disk.name).map(PathBuf::as_path);
        match disk.check(moved.map(Path::new)) {
            Err(changed) if !wanted.accept_changed_disks || matches!(changed, Changed::Gone { .. }) => {
                return Err(RestoreConfigError::Disk { changed });
            }
            _ => {}
        }
    }
    Ok(())
}
