//! The small devices of a PC: serial port, RTC, i8042, ACPI power.
