//! The way from the serial port's interrupt to the processor: I/O APIC and local APIC (Intel SDM volume 3, 12; 82093AA).

use crate::acpi::Madt;
use crate::hardware::Memory;
use crate::physical::Physical;
use crate::sys;

/// As in entry.s.
const SERIAL_VECTOR: u32 = 0x24;
const SPURIOUS_VECTOR: u32 = 0x2f;

const MASKED: u32 = 1 << 16;
const LOCAL_ID: u64 = 0x20;
const TASK_PRIORITY: u64 = 0x80;
const END_OF_INTERRUPT: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const APIC_ENABLE: u32 = 1 << 8;
const LINT0: u64 = 0x350;

/// An interrupt controller that is set up.
pub struct Interrupts {
    local_apic: u64,
}

impl Interrupts {
    /// Lets the serial port wake the processor, if the MADT says how.
    pub fn new(madt: &Madt) -> Option<Self> {
        let input = madt.serial_gsi.checked_sub(madt.io_apic_base)?;
        if madt.io_apic == 0 || madt.local_apic == 0 {
            return None;
        }
        if madt.pics {
            sys::write_port(0x21, 0xff);
            sys::write_port(0xa1, 0xff);
        }
        let memory = Memory;
        memory.write_32(madt.local_apic + LINT0, MASKED);
        memory.write_32(madt.local_apic + TASK_PRIORITY, 0);
        memory.write_32(madt.local_apic + SPURIOUS, APIC_ENABLE | SPURIOUS_VECTOR);
        let id = memory.register(madt.local_apic + LOCAL_ID) & 0xff00_0000;
        // The redirection entry, upper half first: fixed delivery to this processor, edge, active high, not masked.
        for (register, value) in [(0x11 + input * 2, id), (0x10 + input * 2, SERIAL_VECTOR)] {
            memory.write_32(madt.io_apic, register);
            memory.write_32(madt.io_apic + 0x10, value);
        }
        Some(Self { local_apic: madt.local_apic })
    }

    /// Sleeps until something was typed, or is woken for another reason.
    pub fn wait(&self) {
        // SAFETY: the MADT names the local APIC, and this is its register.
        unsafe { sys::wait(self.local_apic + END_OF_INTERRUPT) }
    }
}
