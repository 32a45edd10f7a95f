use super::ConfigSpace;

// Offsets in the type-0 header (PCI Express 6.0, 7.5.1.1 and 7.5.1.2).
pub(super) const COMMAND: u16 = 0x04;
pub(super) const STATUS: u16 = 0x06;
const REVISION: u16 = 0x08;
const CACHE_LINE_SIZE: u16 = 0x0c;
pub(super) const FIRST_BAR: u16 = 0x10;
const SUBSYSTEM: u16 = 0x2c;
pub(super) const CAPABILITIES: u16 = 0x34;
const INTERRUPT_LINE: u16 = 0x3c;

pub(super) const COMMAND_IO: u16 = 1 << 0;
pub(super) const COMMAND_MEMORY: u16 = 1 << 1;
pub(super) const COMMAND_MASTER: u16 = 1 << 2;
pub(super) const STATUS_CAPABILITIES: u16 = 1 << 4;

/// What a function is (PCI Code and ID Assignment 1.16, chapter 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// Base class, for example 0x06 for a bridge.
    pub base: u8,
    /// Sub-class, for example 0x00 for a host bridge.
    pub sub: u8,
    /// Programming interface.
    pub interface: u8,
}

/// Who a function is: what its driver is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Vendor, as the PCI-SIG assigns it; not 0xffff, which means that there is no function.
    pub vendor: u16,
    /// Device, as the vendor assigns it.
    pub device: u16,
    /// Revision, as the vendor chooses it.
    pub revision: u8,
    /// Class.
    pub class: Class,
    /// Vendor of the board; 0 if there is nothing to say.
    pub subsystem_vendor: u16,
    /// Board, as that vendor assigns it.
    pub subsystem: u16,
}

impl ConfigSpace {
    pub(super) fn write_header(&mut self, identity: &Identity) {
        let Identity { vendor, device, revision, class, subsystem_vendor, subsystem } = *identity;
        let words = [vendor, device, 0, 0].map(u16::to_le_bytes);
        self.define(0, words.as_flattened(), &[0; 8]);
        self.define(REVISION, &[revision, class.interface, class.sub, class.base], &[0; 4]);
        self.define(SUBSYSTEM, [subsystem_vendor, subsystem].map(u16::to_le_bytes).as_flattened(), &[0; 4]);
        // Two registers without a meaning for the device, in which software leaves notes.
        self.define(CACHE_LINE_SIZE, &[0], &[0xff]);
        self.define(INTERRUPT_LINE, &[0], &[0xff]);
    }
}
