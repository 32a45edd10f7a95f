//! What a virtual machine is made of: one schema for flags and files.

mod affinity;
mod boot;
mod console;
mod cpu;
mod cpus;
mod disk;
mod file;
mod flag;
mod limit;
mod limit_group;
mod memory;
mod net;
mod pci;
mod size;
#[cfg(test)]
mod tests;
mod transport;

pub use affinity::{Affinity, AffinityError};
pub use boot::BootProtocol;
pub use console::ConsoleConfig;
pub use cpu::{CpuConfig, ModelChoice, ModelFile};
pub use cpus::{CpusConfig, CpusError};
pub use disk::{DiskBacking, DiskConfig, DiskFormat};
pub use flag::FlagError;
pub use limit::LimitSettings;
pub use limit_group::LimitGroupConfig;
pub use memory::{HugePages, MemoryBacking, MemoryConfig};
pub use net::{NetConfig, NetworkKind};
pub use pci::PciConfig;
pub use size::{ByteSize, SizeError};
pub use transport::Transport;

use crate::log::Level;
use crate::registry::VmId;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;

/// The most virtual CPUs a machine may have.
pub const MAX_CPUS: u32 = 32;
/// The least guest memory, in bytes: a kernel is loaded from 1 MiB on, and below lie its boot parameters and tables.
pub const MIN_MEMORY: u64 = 4 << 20;

const PAGE: u64 = 4096;
/// Slots of a bus but for the host bridge's.
const MAX_PCI_DEVICES: usize = drystone_pci::SLOTS as usize - 1;

/// A virtual machine as its user describes it. Every field has a default: without a kernel the machine
/// runs the small guest that is built in. [`Config::validate`] says what makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of the running machine; one is made up unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// A bzImage or an ELF kernel; the small guest that is built in if none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// How the kernel is entered.
    pub boot_protocol: BootProtocol,
    /// The initial RAM file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// The user's part of the kernel command line.
    pub cmdline: String,
    /// How many virtual CPUs, and how they are grouped.
    pub cpus: CpusConfig,
    /// What virtual CPUs are, and where they run.
    pub cpu: CpuConfig,
    /// Guest RAM.
    pub memory: MemoryConfig,
    /// The PCI bus.
    pub pci: PciConfig,
    /// How the guest reaches virtio devices that do not say so themselves.
    pub transport: Transport,
    /// Where the guest's serial console is.
    pub console: ConsoleConfig,
    /// Virtio disks, in the order in which the guest finds them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disk: Vec<DiskConfig>,
    /// Limits that disks share.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limit_group: Vec<LimitGroupConfig>,
    /// Virtio network devices, in the order in which the guest finds them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub net: Vec<NetConfig>,
    /// Whether the guest has a virtio entropy device, which gives it the host's random bytes.
    pub rng: bool,
    /// What happens when the guest resets its machine.
    pub on_reset: Policy,
    /// What happens when a virtual CPU meets a triple fault, which is how a kernel crashes for good.
    pub on_triple_fault: Policy,
    /// What happens when the guest's kernel says that it panicked.
    pub on_panic: PanicPolicy,
    /// How a graceful stop tells the guest.
    pub shutdown_signal: ShutdownSignal,
    /// The least grave messages that go to the log.
    pub log_level: Level,
    /// Where the log goes, instead of `log` in the machine's runtime directory, which lives as long as the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_file: Option<PathBuf>,
}

/// What a machine does on an event in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Policy {
    /// Start again from the kernel, in place.
    Reset,
    /// End.
    Stop,
}

/// What a machine does when its guest's kernel panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum PanicPolicy {
    /// Start again from the kernel, in place.
    Reset,
    /// End.
    Stop,
    /// Stand still, to be looked at.
    Pause,
}

/// How a guest is told that it is to shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum ShutdownSignal {
    /// The ACPI power button.
    PowerButton,
    /// Ctrl-Alt-Del on its keyboard.
    CtrlAltDel,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            id: None,
            kernel: None,
            boot_protocol: BootProtocol::default(),
            initrd: None,
            cmdline: String::new(),
            cpus: CpusConfig::from(1),
            cpu: CpuConfig::default(),
            memory: MemoryConfig::default(),
            pci: PciConfig::default(),
            transport: Transport::default(),
            console: ConsoleConfig::default(),
            disk: Vec::new(),
            limit_group: Vec::new(),
            net: Vec::new(),
            rng: true,
            on_reset: Policy::Reset,
            on_triple_fault: Policy::Stop,
            on_panic: PanicPolicy::Stop,
            shutdown_signal: ShutdownSignal::PowerButton,
            log_level: Level::default(),
            log_file: None,
        }
    }
}

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {}: cannot read: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
    /// The file is not what it should be.
    #[error("configuration {}: line {line}: {what}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The field and what is wrong with it.
        what: String,
    },
    /// A value makes no sense.
    #[error("{field}: {what}")]
    Value {
        /// The field as the file names it.
        field: &'static str,
        /// What is wrong with it.
        what: String,
    },
}

impl Config {
    /// Checks what can be checked without touching the host.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first field that makes no sense.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let bad = |field, what: String| Err(ConfigError::Value { field, what });
        if let Some(id) = &self.id
            && let Err(e) = id.parse::<VmId>()
        {
            return bad("id", e.to_string());
        }
        if let Err(e) = self.cpus.topology() {
            return bad("cpus", e.to_string());
        }
        self.cpu.validate()?;
        if self.cmdline.contains(['\0', '\n']) {
            return bad("cmdline", "must not contain a newline or a null byte".into());
        }
        self.validate_limit_groups()?;
        self.validate_disks()?;
        self.validate_nets()?;
        self.validate_places()?;
        self.validate_memory()
    }

    /// The same, in which every disk and network device says its name and address, which then depend on nothing else.
    #[must_use]
    pub fn with_names(&self) -> Self {
        let mut config = self.clone();
        for (index, disk) in config.disk.iter_mut().enumerate() {
            disk.id = Some(disk.name(index));
        }
        let machine = config.id.clone().unwrap_or_default();
        for (index, net) in config.net.iter_mut().enumerate() {
            net.mac = Some(net.address(index, &machine));
            net.id = Some(net.name(index));
        }
        config
    }

    fn validate_limit_groups(&self) -> Result<(), ConfigError> {
        let bad = |what: String| Err(ConfigError::Value { field: "limit_group", what });
        let mut names = std::collections::BTreeSet::new();
        for group in &self.limit_group {
            if let Err(what) = group.validate() {
                return bad(format!("`{}`: {what}", group.name));
            }
            if !names.insert(&group.name) {
                return bad(format!("two groups are called `{}`", group.name));
            }
        }
        Ok(())
    }

    fn validate_disks(&self) -> Result<(), ConfigError> {
        let bad = |what: String| Err(ConfigError::Value { field: "disk", what });
        let mut names = std::collections::BTreeSet::new();
        for (index, disk) in self.disk.iter().enumerate() {
            let name = disk.name(index);
            if let Err(what) = disk.block(index) {
                return bad(format!("`{name}`: {what}"));
            }
            if let Some(group) = &disk.limit_group
                && !self.limit_group.iter().any(|there| there.name == *group)
            {
                return bad(format!("`{name}`: there is no limit group `{group}`"));
            }
            if !names.insert(name.clone()) {
                return bad(format!("two disks are called `{name}`"));
            }
        }
        Ok(())
    }

    fn validate_nets(&self) -> Result<(), ConfigError> {
        let bad = |what: String| Err(ConfigError::Value { field: "net", what });
        let mut names = std::collections::BTreeSet::new();
        for (index, net) in self.net.iter().enumerate() {
            let name = net.name(index);
            if let Err(what) = net.device(index, "") {
                return bad(format!("`{name}`: {what}"));
            }
            if !names.insert(name.clone()) {
                return bad(format!("two network devices are called `{name}`"));
            }
        }
        Ok(())
    }

    /// Whether there is a place for every device.
    fn validate_places(&self) -> Result<(), ConfigError> {
        let field = if self.disk.is_empty() { "net" } else { "disk" };
        let bad = |what: String| Err(ConfigError::Value { field, what });
        let disks = self.disk.iter().map(|disk| disk.transport);
        let nets = self.net.iter().map(|net| net.transport);
        let own = disks.chain(nets).map(|transport| transport.unwrap_or(self.transport));
        let all: Vec<_> = own.chain(self.rng.then_some(self.transport)).collect();
        let places = [
            (Transport::Mmio, "interrupt lines", crate::machine::MAX_MMIO_DEVICES),
            (Transport::Pci, "PCI slots", MAX_PCI_DEVICES),
        ];
        for (transport, what, most) in places {
            let devices = all.iter().filter(|other| **other == transport).count();
            if devices > most {
                return bad(format!("{devices} devices on virtio-{transport}: there are {what} for {most}"));
            }
        }
        Ok(())
    }

    fn validate_memory(&self) -> Result<(), ConfigError> {
        let ByteSize(size) = self.memory.size;
        let least = ByteSize(MIN_MEMORY);
        let what = if size == 0 {
            format!("0 bytes: a machine needs at least {least}")
        } else if size < MIN_MEMORY {
            format!("{size} bytes is less than the least, {least} (a number without a unit is bytes)")
        } else if !size.is_multiple_of(PAGE) {
            format!("{size} bytes is not a multiple of {PAGE}")
        } else {
            return Ok(());
        };
        Err(ConfigError::Value { field: "memory", what })
    }
}

/// What need not be written down: so snapshots say what they always said.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
