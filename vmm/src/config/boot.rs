use clap::ValueEnum;
use drystone_loader::Protocol;
use serde::{Deserialize, Serialize};

/// How the kernel is entered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum BootProtocol {
    /// As suits its content: a Linux kernel by the Linux protocol, anything else by PVH.
    #[default]
    Auto,
    /// The Linux 64-bit boot protocol.
    Linux,
    /// PVH, which takes an ELF kernel with a note that names the entry point.
    Pvh,
}

impl BootProtocol {
    /// How `drystone-loader` is told; `None` leaves it to the kernel.
    pub fn wanted(self) -> Option<Protocol> {
        match self {
            Self::Auto => None,
            Self::Linux => Some(Protocol::Linux),
            Self::Pvh => Some(Protocol::Pvh),
        }
    }
}
