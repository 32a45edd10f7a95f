use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a guest reaches a virtio device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Transport {
    /// As a PCI function: an interrupt message for each queue, and it can be added and removed while the guest runs.
    #[default]
    Pci,
    /// As a block of registers with one interrupt line, found through ACPI.
    Mmio,
}

impl fmt::Display for Transport {
    /// The word in a file and on the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pci => "pci",
            Self::Mmio => "mmio",
        })
    }
}
