//! ACPI tables for a hardware-reduced machine (ACPI 6.5, chapters 4.1 and 5.2).
//!
//! Hardware-reduced means that there is no fixed power-management hardware: no SCI, PM1 blocks or PM timer. Power off
//! goes through the sleep control register, reset through the reset register, and events (a power button, hot plug)
//! through devices in the namespace.
//!
//! Linux then looks for neither the 8259s nor the PIT. So whatever uses an ISA interrupt has to be a device in the AML with
//! that interrupt in its `_CRS`; and the frequency of the time-stamp counter, with which it sets up its other timers, must come
//! from elsewhere: kvm-clock, or CPUID.

mod config;
mod dsdt;
mod fadt;
mod madt;
mod tables;

pub use config::{
    AcpiConfig, AcpiError, AmlPart, InterruptOverride, Polarity, Register, ResetRegister, SleepRegisters,
    Trigger,
};
pub use tables::AcpiTables;

/// Who made the tables, in every header.
pub const OEM_ID: [u8; 6] = *b"DRYSTN";
/// Which machine they describe, in every header.
pub const OEM_TABLE_ID: [u8; 8] = *b"DRYSTONE";
/// Raised when the tables change in a way that a guest might care about.
pub const OEM_REVISION: u32 = 1;

/// A table with its header and checksum around `body`.
fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table =
        acpi_tables::sdt::Sdt::new(signature, HEADER_LEN, revision, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(body);
    table.as_slice().to_vec()
}

/// The length of a table's header, in bytes.
const HEADER_LEN: u32 = 36;

#[cfg(test)]
mod tests;
