//! The driver's half of PCI: what a guest does to find functions, their BARs and their capabilities.

use drystone_bus::{Bus, Effect};

const VENDOR: u64 = 0x00;
const COMMAND: u64 = 0x04;
const CLASS: u64 = 0x08;
const BARS: u64 = 0x10;
const CAPABILITIES: u64 = 0x34;
const EXTENDED: u64 = 0x100;
/// More than fit: a chain that is longer goes in a circle.
const MOST_CAPABILITIES: usize = 48;

/// A guest that looks at PCI through ECAM on a bus, and applies what its writes bring about, as a vCPU does.
pub struct PciDriver<'a> {
    bus: &'a Bus,
    ecam: u64,
}

/// A function that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its slot.
    pub slot: u8,
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Base class, sub-class and interface, as 24 bits.
    pub class: u32,
}

/// A BAR that was found by writing ones to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundBar {
    /// Its index.
    pub index: u8,
    /// For ports, not memory.
    pub io: bool,
    /// Takes two registers.
    pub is_64: bool,
    /// Prefetchable.
    pub prefetchable: bool,
    /// Where it is.
    pub address: u64,
    /// Its size.
    pub size: u64,
}

impl<'a> PciDriver<'a> {
    /// A guest that was told that configuration space is at `ecam`.
    pub fn new(bus: &'a Bus, ecam: u64) -> Self {
        Self { bus, ecam }
    }

    fn at(&self, slot: u8, register: u64) -> u64 {
        self.ecam + (u64::from(slot) << 15) + register
    }

    /// Reads a register of 32 bits.
    pub fn read(&self, slot: u8, register: u64) -> u32 {
        let mut data = [0; 4];
        self.bus.mmio.read(self.at(slot, register), &mut data);
        u32::from_le_bytes(data)
    }

    /// Writes a register of 32 bits.
    pub fn write(&self, slot: u8, register: u64, value: u32) {
        if self.bus.mmio.write(self.at(slot, register), &value.to_le_bytes()) == Effect::Relocate {
            self.bus.relocate();
        }
    }

    /// Everything on the bus.
    pub fn functions(&self) -> Vec<Found> {
        let found = |slot| {
            let [vendor, device] = halves(self.read(slot, VENDOR));
            let class = self.read(slot, CLASS) >> 8;
            (vendor != 0xffff).then_some(Found { slot, vendor, device, class })
        };
        (0..32).filter_map(found).collect()
    }

    /// Sizes a function's BARs while it is switched off, and leaves everything as it was.
    pub fn bars(&self, slot: u8) -> Vec<FoundBar> {
        let command = self.read(slot, COMMAND);
        self.write(slot, COMMAND, command & !0b11);
        let (mut found, mut index) = (Vec::new(), 0);
        while index < 6 {
            let bar = self.bar(slot, index);
            index += 1 + u8::from(bar.is_some_and(|bar| bar.is_64));
            found.extend(bar);
        }
        self.write(slot, COMMAND, command);
        found
    }

    fn bar(&self, slot: u8, index: u8) -> Option<FoundBar> {
        let register = BARS + 4 * u64::from(index);
        let size = |register| {
            let before = self.read(slot, register);
            self.write(slot, register, u32::MAX);
            let mask = self.read(slot, register);
            self.write(slot, register, before);
            (before, mask)
        };
        let (low, low_mask) = size(register);
        // Nothing is there, or no function at all.
        if low_mask == 0 || low_mask == u32::MAX {
            return None;
        }
        let io = low_mask & 1 != 0;
        let is_64 = !io && low_mask & 0b110 == 0b100;
        let flags = if io { 0b11 } else { 0b1111 };
        let (high, high_mask) = if is_64 { size(register + 4) } else { (0, u32::MAX) };
        let address = u64::from(high) << 32 | u64::from(low & !flags);
        let mask = u64::from(high_mask) << 32 | u64::from(low_mask & !flags);
        let prefetchable = !io && low_mask & 8 != 0;
        Some(FoundBar { index, io, is_64, prefetchable, address, size: (!mask).wrapping_add(1) })
    }

    /// The id and offset of each capability.
    ///
    /// # Panics
    /// If the chain goes in a circle or leaves its place.
    pub fn capabilities(&self, slot: u8) -> Vec<(u8, u8)> {
        let mut found = Vec::new();
        let mut at = self.read(slot, CAPABILITIES) as u8;
        while at != 0 {
            assert!(at >= 0x40 && at.is_multiple_of(4) && found.len() < MOST_CAPABILITIES, "{found:?}");
            let [id, next, ..] = self.read(slot, at.into()).to_le_bytes();
            found.push((id, at));
            at = next;
        }
        found
    }

    /// The id, version and offset of each extended capability.
    ///
    /// # Panics
    /// If the chain goes in a circle or leaves its place.
    pub fn extended_capabilities(&self, slot: u8) -> Vec<(u16, u8, u16)> {
        let mut found = Vec::new();
        let mut at = EXTENDED;
        while at != 0 {
            assert!(at >= EXTENDED && at.is_multiple_of(4) && found.len() < 960, "{found:?}");
            let header = self.read(slot, at);
            if header == 0 {
                break;
            }
            found.push((header as u16, (header >> 16) as u8 & 0xf, at as u16));
            at = u64::from(header >> 20);
        }
        found
    }

    /// Lets a function answer at its BARs and reach memory.
    pub fn enable(&self, slot: u8) {
        self.write(slot, COMMAND, 0b111);
    }
}

fn halves(register: u32) -> [u16; 2] {
    [register as u16, (register >> 16) as u16]
}
