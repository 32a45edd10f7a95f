use super::MachineError;
use drystone_state::Schema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Which device is in which PCI slot. It is a part of a saved machine: devices have come and gone since it was made, and its guest
/// knows each by its slot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedSlots {
    /// By name of the device.
    slots: BTreeMap<String, u8>,
    /// Those among them that were pulled, and that the guest has not let go of.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pulled: BTreeSet<String>,
}

impl Schema for SavedSlots {
    const KIND: &'static str = "pci-slots";
    const VERSION: u32 = 1;
}

impl SavedSlots {
    /// The part of a saved machine that it is.
    pub(super) const PART: &'static str = "pci-slots";

    /// The slot of a device that was saved.
    pub(super) fn of(&self, device: &str) -> Result<u8, MachineError> {
        let lacking =
            || MachineError::Restore(format!("the snapshot does not say in which PCI slot `{device}` is"));
        self.slots.get(device).copied().ok_or_else(lacking)
    }

    /// Whether the device was pulled.
    pub(super) fn was_pulled(&self, device: &str) -> bool {
        self.pulled.contains(device)
    }

    /// A device in `slot`.
    pub(super) fn insert(&mut self, device: String, slot: u8, pulled: bool) {
        if pulled {
            self.pulled.insert(device.clone());
        }
        self.slots.insert(device, slot);
    }
}
