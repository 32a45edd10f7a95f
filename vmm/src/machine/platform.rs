//! Where the machine's fixed hardware is: ports and interrupt lines of a PC, and a block of ACPI registers.

/// The first serial port (COM1).
pub(super) const SERIAL_PORT: u16 = 0x3f8;
pub(super) const SERIAL_PORTS: u16 = 8;
pub(super) const SERIAL_IRQ: u32 = 4;

/// The CMOS clock's index and data ports.
pub(super) const RTC_PORT: u16 = 0x70;
pub(super) const RTC_PORTS: u16 = 2;

/// The keyboard controller. Port 0x61 between its two belongs to the timer.
pub(super) const I8042_DATA: u16 = 0x60;
pub(super) const I8042_COMMAND: u16 = 0x64;

/// ACPI sleep, reset and event registers: a block that no PC hardware uses.
pub(super) const ACPI_PORT: u16 = 0x600;
/// The line of the generic event device; on a PC this is the ACPI interrupt, too.
pub(super) const ACPI_IRQ: u32 = 9;
