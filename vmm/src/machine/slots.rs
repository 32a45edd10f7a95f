use super::MachineError;
use drystone_state::Schema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which device is in which PCI slot. It is a part of a saved machine: devices have come and gone since it was made, and its guest
/// knows each by its slot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedSlots {
    /// By name of the device.
    slots: BTreeMap<String, u8>,
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
}

impl FromIterator<(String, u8)> for SavedSlots {
    fn from_iter<I: IntoIterator<Item = (String, u8)>>(slots: I) -> Self {
        Self { slots: slots.into_iter().collect() }
    }
}
