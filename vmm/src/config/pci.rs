use serde::{Deserialize, Serialize};

/// The machine's PCI bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PciConfig {
    /// Whether configuration space can also be reached through ports 0xcf8 and 0xcfc. Older kernels, 6.1 among them, say
    /// "PCI: Fatal: No config space access function found" without them, before they find it elsewhere; firmware may
    /// know nothing else. Where they are, Linux uses them, with one more instruction that leaves the guest for each access.
    pub config_ports: bool,
}

impl Default for PciConfig {
    fn default() -> Self {
        Self { config_ports: true }
    }
}
