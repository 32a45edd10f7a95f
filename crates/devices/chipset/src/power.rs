use crate::bytes;
use acpi_tables::aml::{Name, Package, ZERO};
use acpi_tables::{Aml, AmlSink};
use drystone_bus::{BusDevice, Effect};
use drystone_state::{Component, ComponentError, NoState, Persist, PersistDyn, RestoreError, SaveError};
use serde::{Deserialize, Serialize};

const SLEEP_CONTROL: u64 = 0;
const SLEEP_STATUS: u64 = 1;
const RESET: u64 = 2;

/// Sleep control: which sleeping state is meant, and "enter it" (ACPI 6.5, 4.8.3.7).
const SLP_TYP_SHIFT: u8 = 2;
const SLP_TYP_MASK: u8 = 0x07;
const SLP_EN: u8 = 0x20;
/// The SLP_TYP value of S5, which the `\_S5` package names.
const S5: u8 = 5;
/// What, written to the reset register, resets.
const RESET_VALUE: u8 = 0x01;

/// Where an [`AcpiPower`] is. Absent settings take the values given here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AcpiPowerConfig {
    /// First I/O port of the register block; 0x600. It takes [`AcpiPower::LEN`] ports, and must be at most 0xfffc.
    pub base: u16,
}

impl Default for AcpiPowerConfig {
    fn default() -> Self {
        Self { base: 0x600 }
    }
}

/// What the FADT of a hardware-reduced ACPI machine says about an [`AcpiPower`] (ACPI 6.5, 5.2.9). All registers are
/// one byte wide, in system I/O space. The FADT's flags must have HW_REDUCED_ACPI (bit 20) and RESET_REG_SUP (bit 10)
/// set, and PWR_BUTTON (bit 4) and SLP_BUTTON (bit 5), which say that neither button is a fixed register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcpiRegisters {
    /// Port of SLEEP_CONTROL_REG.
    pub sleep_control: u16,
    /// Port of SLEEP_STATUS_REG.
    pub sleep_status: u16,
    /// Port of RESET_REG.
    pub reset: u16,
    /// RESET_VALUE.
    pub reset_value: u8,
}

/// Power off and reset, for a hardware-reduced ACPI machine.
///
/// A block of 4 ports: sleep control, sleep status, reset; the last reads as all ones. S5 is the only sleeping state, and
/// switches the machine off. It remembers nothing, so there is nothing to reset or save.
pub struct AcpiPower {
    config: AcpiPowerConfig,
}

impl AcpiPower {
    /// How many ports the register block takes.
    pub const LEN: u64 = 4;

    /// A machine that is on.
    pub fn new(config: AcpiPowerConfig) -> Self {
        Self { config }
    }

    /// The settings that it was built with.
    pub fn config(&self) -> &AcpiPowerConfig {
        &self.config
    }

    /// What the FADT needs to say.
    pub fn registers(&self) -> AcpiRegisters {
        let at = |offset: u64| self.config.base.saturating_add(u16::try_from(offset).unwrap_or(0));
        AcpiRegisters {
            sleep_control: at(SLEEP_CONTROL),
            sleep_status: at(SLEEP_STATUS),
            reset: at(RESET),
            reset_value: RESET_VALUE,
        }
    }

    /// The guest reads from `offset` on.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        bytes::read(offset, data, |at| match at {
            // Write-only fields read as zero, and nothing ever wakes from S5.
            SLEEP_CONTROL | SLEEP_STATUS | RESET => 0,
            _ => 0xff,
        });
    }

    /// The guest writes from `offset` on. [`Effect::PowerOff`] when it enters S5, [`Effect::Reset`] when it writes
    /// the reset value to the reset register.
    pub fn write(&self, offset: u64, data: &[u8]) -> Effect {
        bytes::write(offset, data, |at, value| match at {
            SLEEP_CONTROL if value & SLP_EN != 0 && value >> SLP_TYP_SHIFT & SLP_TYP_MASK == S5 => {
                Effect::PowerOff
            }
            RESET if value == RESET_VALUE => Effect::Reset,
            _ => Effect::None,
        })
    }
}

impl BusDevice for AcpiPower {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.read(offset, data);
    }
    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        self.write(offset, data)
    }
}

/// `\_S5`: the SLP_TYP of each of two registers, of which a hardware-reduced machine has one, and two reserved values.
impl Aml for AcpiPower {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        Name::new("\\_S5_".into(), &Package::new(vec![&S5, &ZERO, &ZERO, &ZERO])).to_aml_bytes(sink);
    }
}

impl Component for AcpiPower {
    fn pause(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn resume(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn reset(&self) -> Result<(), ComponentError> {
        let Self { config: _ } = self;
        Ok(())
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}

impl Persist for AcpiPower {
    type State = NoState;
    fn save(&self) -> Result<NoState, SaveError> {
        Ok(NoState {})
    }
    fn restore(&self, NoState {}: NoState) -> Result<(), RestoreError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
