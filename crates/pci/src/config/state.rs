use super::ConfigSpace;
use crate::MsixState;
use drystone_state::Schema;
use serde::{Deserialize, Serialize};

/// The saved state of a [`Config`](super::Config).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigState {
    /// Every register of 32 bits of which a guest or the device can change a bit: offset and value, by offset.
    pub registers: Vec<(u16, u32)>,
    /// The MSI-X structures, if the function has any.
    pub msix: Option<MsixState>,
}

impl Schema for ConfigState {
    const KIND: &'static str = "pci-config";
    const VERSION: u32 = 1;
}

impl ConfigSpace {
    pub(super) fn save(&self) -> Vec<(u16, u32)> {
        self.changeable().map(|(offset, _)| (offset, self.u32(offset))).collect()
    }

    /// Takes `registers` over if a function with these masks can have them: the same ones, and no bit changed that nobody
    /// can change. Otherwise says why not.
    pub(super) fn restore(&mut self, registers: &[(u16, u32)]) -> Result<(), String> {
        let expected: Vec<_> = self.changeable().collect();
        if expected.len() != registers.len() {
            let (found, own) = (registers.len(), expected.len());
            return Err(format!("{found} registers, and this function has {own}"));
        }
        for ((own, mask), (offset, value)) in expected.iter().zip(registers) {
            if own != offset {
                return Err(format!("register {offset:#x} where {own:#x} should be"));
            }
            if (self.u32(*offset) ^ value) & !mask != 0 {
                return Err(format!("register {offset:#x} cannot be {value:#x}"));
            }
        }
        registers.iter().for_each(|(offset, value)| self.set(*offset, &value.to_le_bytes()));
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
