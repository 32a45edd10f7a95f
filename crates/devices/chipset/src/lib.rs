//! The small devices of a PC: serial port, RTC, i8042, ACPI power, pvpanic.
//!
//! Each is a struct that guards itself, with plain `read` and `write` that take an offset and the bytes of one guest
//! access. They are given what they need (an [`Interrupt`](drystone_bus::Interrupt), a
//! [`Clock`](drystone_bus::Clock)), own no thread, and name no hypervisor.
//!
//! Those that a guest finds through ACPI implement [`Aml`](acpi_tables::Aml): terms for the top level of a DSDT or
//! an SSDT, with absolute names.
#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod aml;
mod button;
mod bytes;
mod ged;
mod i8042;
mod power;
mod pvpanic;
mod rtc;
mod serial;
mod vmgenid;

pub use button::PowerButton;
pub use ged::{Ged, GedConfig, GedEvent, GedFull, GedState};
pub use i8042::{I8042, I8042Port, I8042State, KeyboardError, KeyboardState};
pub use power::{AcpiPower, AcpiPowerConfig, AcpiRegisters};
pub use pvpanic::{PvPanic, PvPanicState};
pub use rtc::{RTC_CENTURY_REGISTER, Rtc, RtcConfig, RtcState};
pub use serial::{
    RequestToSend, Serial, SerialConfig, SerialError, SerialInput, SerialOutput, SerialParts, SerialState,
    SerialWaker, Taken,
};
pub use vmgenid::{Entropy, Identity, VmGenId, VmGenIdError, VmGenIdState};
