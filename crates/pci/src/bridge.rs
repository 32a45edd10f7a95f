use crate::{Class, Config, ConfigSpace, ConfigState, Function, Identity};
use drystone_bus::Effect;
use drystone_state::{Component, ComponentError, Persist, PersistDyn, RestoreError, SaveError, Schema};
use serde::{Deserialize, Serialize};

/// "QEMU PCIe host bridge" of Red Hat's list of devices that exist in software only
/// (<https://www.qemu.org/docs/master/specs/pci-ids.html>): what guests know as a generic bridge behind ECAM. They bind
/// no driver to it and apply no work-around for a chipset's mistakes, as they would to an identity of real hardware.
const GENERIC: Identity = Identity {
    vendor: 0x1b36,
    device: 0x0008,
    revision: 0,
    class: Class { base: 0x06, sub: 0x00, interface: 0x00 },
    subsystem_vendor: 0,
    subsystem: 0,
};

/// The host bridge's own function, at slot 0 of a segment: an identity, and no register that does anything.
pub struct HostBridge(Config);

impl HostBridge {
    /// A bridge that guests know as a generic one.
    pub fn new() -> Self {
        Self::with_identity(&GENERIC)
    }

    /// A bridge that says it is `identity`, for firmware that looks for a certain one.
    pub fn with_identity(identity: &Identity) -> Self {
        Self(Config::new(ConfigSpace::new(identity)))
    }
}

impl Default for HostBridge {
    fn default() -> Self {
        Self::new()
    }
}

impl Function for HostBridge {
    fn config(&self) -> &Config {
        &self.0
    }
    fn bar_read(&self, _: usize, _: u64, _: &mut [u8]) {}
    fn bar_write(&self, _: usize, _: u64, _: &[u8]) -> Effect {
        Effect::None
    }
    fn bar_moved(&self, _: usize, _: Option<u64>) {}
}

impl Component for HostBridge {
    fn pause(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn resume(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn reset(&self) -> Result<(), ComponentError> {
        let Self(config) = self;
        config.reset();
        Ok(())
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}

/// The saved state of a [`HostBridge`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostBridgeState {
    /// Its configuration space.
    pub config: ConfigState,
}

impl Schema for HostBridgeState {
    const KIND: &'static str = "pci-host-bridge";
    const VERSION: u32 = 1;
}

impl Persist for HostBridge {
    type State = HostBridgeState;

    fn save(&self) -> Result<HostBridgeState, SaveError> {
        Ok(HostBridgeState { config: self.0.save()? })
    }

    fn restore(&self, state: HostBridgeState) -> Result<(), RestoreError> {
        let HostBridgeState { config } = state;
        self.0.restore(config)
    }
}

#[cfg(test)]
mod tests;
