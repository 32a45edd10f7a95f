mod aml;

use crate::bytes::{self, lock};
use drystone_bus::{BusDevice, Effect, Interrupt};
use drystone_state::{Component, ComponentError, Persist, PersistDyn, RestoreError, SaveError, Schema};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex};

const SLEEP_CONTROL: u64 = 0;
const SLEEP_STATUS: u64 = 1;
const RESET: u64 = 2;
const EVENTS: u64 = 3;

/// Sleep control: which sleeping state is meant, and "enter it" (ACPI 6.5, 4.8.3.7).
const SLP_TYP_SHIFT: u8 = 2;
const SLP_TYP_MASK: u8 = 0x07;
const SLP_EN: u8 = 0x20;
/// The SLP_TYP value of S5, which the `\_S5` package names.
const S5: u8 = 5;
/// What, written to the reset register, resets.
const RESET_VALUE: u8 = 0x01;
/// The event of the power button.
const POWER_BUTTON: u8 = 0x01;

/// Where an [`AcpiPower`] is. Absent settings take the values given here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AcpiPowerConfig {
    /// First I/O port of the register block; 0x600. It takes [`AcpiPower::LEN`] ports, and must be at most 0xfff8.
    pub base: u16,
    /// Global system interrupt of the event device; 9. Whoever makes the `Interrupt` wires it there.
    pub gsi: u32,
}

impl Default for AcpiPowerConfig {
    fn default() -> Self {
        Self { base: 0x600, gsi: 9 }
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

/// Power off, reset and the power button, for a hardware-reduced ACPI machine.
///
/// A block of 8 ports: sleep control, sleep status, reset, events; the rest reads as all ones. S5 is the only
/// sleeping state, and switches the machine off. The events register belongs to a Generic Event Device
/// (ACPI 6.5, 5.6.9) whose AML reads it, which clears it, and passes the events on.
pub struct AcpiPower {
    config: AcpiPowerConfig,
    interrupt: Arc<dyn Interrupt>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Events that the guest has not read yet, a bit for each.
    events: u8,
}

impl AcpiPower {
    /// How many ports the register block takes.
    pub const LEN: u64 = 8;

    /// A machine that is on, and whose button nobody has pressed. `interrupt` is that of the event device.
    pub fn new(config: AcpiPowerConfig, interrupt: Arc<dyn Interrupt>) -> Self {
        Self { config, interrupt, inner: Mutex::default() }
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

    /// Presses the power button. What comes of it is up to the guest: usually it shuts down and switches itself off,
    /// some time later; it may also do nothing.
    pub fn press_power_button(&self) {
        lock(&self.inner).events |= POWER_BUTTON;
        self.interrupt.trigger();
    }

    /// The guest reads from `offset` on.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let mut inner = lock(&self.inner);
        bytes::read(offset, data, |at| match at {
            // Write-only fields read as zero, and nothing ever wakes from S5.
            SLEEP_CONTROL | SLEEP_STATUS | RESET => 0,
            EVENTS => std::mem::take(&mut inner.events),
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

impl Component for AcpiPower {
    fn pause(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn resume(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn reset(&self) -> Result<(), ComponentError> {
        let Self { config: _, interrupt: _, inner } = self;
        let Inner { events } = &mut *lock(inner);
        *events = 0;
        Ok(())
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}

/// The saved state of an [`AcpiPower`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcpiPowerState {
    /// Events that the guest has not read yet.
    pub events: u8,
}

impl Schema for AcpiPowerState {
    const KIND: &'static str = "acpi-power";
    const VERSION: u32 = 1;
}

impl Persist for AcpiPower {
    type State = AcpiPowerState;

    fn save(&self) -> Result<AcpiPowerState, SaveError> {
        Ok(AcpiPowerState { events: lock(&self.inner).events })
    }

    fn restore(&self, state: AcpiPowerState) -> Result<(), RestoreError> {
        let AcpiPowerState { events } = state;
        if events & !POWER_BUTTON != 0 {
            let cause = format!("events {events:#x}: only the power button is known");
            return Err(RestoreError::Invalid { kind: AcpiPowerState::KIND, cause });
        }
        lock(&self.inner).events = events;
        if events != 0 {
            // One interrupt too many finds nothing to do; one too few would lose the event.
            self.interrupt.trigger();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
