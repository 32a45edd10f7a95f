use super::ConfigSpace;
use drystone_state::{RestoreError, Schema};
use serde::{Deserialize, Serialize};

/// The saved state of a [`ConfigSpace`]: every register of 32 bits of which a guest or the device can change a bit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigState {
    /// Offset and value, by offset.
    pub registers: Vec<(u16, u32)>,
}

impl Schema for ConfigState {
    const KIND: &'static str = "pci-config";
    const VERSION: u32 = 1;
}

impl ConfigSpace {
    pub(super) fn save(&self) -> ConfigState {
        let registers = self.changeable().map(|(offset, _)| (offset, self.u32(offset))).collect();
        ConfigState { registers }
    }

    /// Takes `state` over if a function with these masks can be in it: the same registers, and no bit changed that nobody
    /// can change.
    pub(super) fn restore(&mut self, state: &ConfigState) -> Result<(), RestoreError> {
        let invalid = |cause| RestoreError::Invalid { kind: ConfigState::KIND, cause };
        let expected: Vec<_> = self.changeable().collect();
        if expected.len() != state.registers.len() {
            let (found, own) = (state.registers.len(), expected.len());
            return Err(invalid(format!("{found} registers, and this function has {own}")));
        }
        for ((own, mask), (offset, value)) in expected.iter().zip(&state.registers) {
            if own != offset {
                return Err(invalid(format!("register {offset:#x} where {own:#x} should be")));
            }
            if (self.u32(*offset) ^ value) & !mask != 0 {
                return Err(invalid(format!("register {offset:#x} cannot be {value:#x}")));
            }
        }
        state.registers.iter().for_each(|(offset, value)| self.set(*offset, &value.to_le_bytes()));
        Ok(())
    }

    /// Offsets of registers, with the bits that can change.
    fn changeable(&self) -> impl Iterator<Item = (u16, u32)> {
        let masks = self
            .bytes
            .chunks(4)
            .map(|word| word.iter().rev().fold(0, |mask, b| mask << 8 | u32::from(b.writable | b.clears)));
        (0_u16..).step_by(4).zip(masks).filter(|(_, mask)| *mask != 0)
    }
}
