use std::ops::Range;

const GIB: u64 = 1 << 30;
const PAGE: u64 = 4096;

/// A range of guest-physical addresses set aside for devices.
pub type Window = Range<u64>;

/// One piece of guest RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamRange {
    /// First guest-physical address.
    pub base: u64,
    /// Length in bytes.
    pub len: u64,
}

/// Why RAM of a given size has no layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// Not a whole number of pages, or none.
    #[error("guest memory of {0} bytes: must be a multiple of 4096 and not 0")]
    Size(u64),
    /// The guest's CPU cannot address that much.
    #[error(
        "guest memory of {size} bytes: does not fit into the {bits} address bits of this host's virtual CPUs"
    )]
    AddressBits {
        /// The size asked for, in bytes.
        size: u64,
        /// Guest-physical address width.
        bits: u8,
    },
}

/// The guest-physical address space of an x86 machine:
///
/// ```text
/// 0              3 GiB           4 GiB                      2^bits
/// | low RAM ...  | device window | high RAM ... | device window |
/// ```
///
/// Low RAM ends below the 32-bit device window, which holds, in ascending order, 32-bit BARs, ECAM, the registers of
/// devices that are not on PCI, and the I/O and local APICs. What does not fit below it goes above 4 GiB; the 64-bit
/// device window starts above that, on a 1 GiB boundary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    low: u64,
    high: u64,
    bits: u8,
}

impl Layout {
    /// Where the 32-bit device window begins and low RAM ends at the latest: 3 GiB.
    pub const WINDOW_32_START: u64 = 3 * GIB;
    /// Where high RAM begins: 4 GiB.
    pub const HIGH_RAM_START: u64 = 4 * GIB;
    /// Where PCI segments' configuration spaces (ECAM) are: 256 MiB, aligned to its size, room for 256 buses.
    pub const ECAM: Window = 0xe000_0000..0xf000_0000;
    /// Where the registers of devices that are not on PCI are, such as virtio-mmio.
    pub const PLATFORM: Window = Self::ECAM.end..Self::IO_APIC;
    /// The I/O APIC's registers (Intel 82093AA data sheet; one page is kept free for them).
    pub const IO_APIC: u64 = 0xfec0_0000;
    /// The local APICs' registers (Intel SDM volume 3, 12.4.1).
    pub const LOCAL_APIC: u64 = 0xfee0_0000;
    /// Three pages that Intel processors' KVM needs for a task state segment, followed by one for its identity map
    /// (KVM_SET_TSS_ADDR, KVM_SET_IDENTITY_MAP_ADDR).
    pub const KVM_RESERVED: Window = 0xfffb_c000..0xfffc_0000;

    /// Lays out `size` bytes of RAM for virtual CPUs with `bits` physical address bits (CPUID 0x80000008).
    ///
    /// # Errors
    /// [`LayoutError::Size`] unless `size` is a positive multiple of 4096; [`LayoutError::AddressBits`] unless RAM
    /// and at least 1 GiB of device window fit below 2^`bits`.
    pub fn new(size: u64, bits: u8) -> Result<Self, LayoutError> {
        if size == 0 || !size.is_multiple_of(PAGE) {
            return Err(LayoutError::Size(size));
        }
        let low = size.min(Self::WINDOW_32_START);
        let layout = Self { low, high: size - low, bits };
        let does_not_fit = LayoutError::AddressBits { size, bits };
        let end = Self::HIGH_RAM_START.checked_add(layout.high).and_then(|e| e.checked_next_multiple_of(GIB));
        match end.zip(1_u64.checked_shl(bits.into())) {
            Some((end, limit)) if end < limit => Ok(layout),
            _ => Err(does_not_fit),
        }
    }

    /// Guest RAM in ascending order: one range, or two with the 32-bit device window between them.
    pub fn ram(&self) -> Vec<RamRange> {
        let low = RamRange { base: 0, len: self.low };
        let high = RamRange { base: Self::HIGH_RAM_START, len: self.high };
        [low, high].into_iter().filter(|r| r.len > 0).collect()
    }

    /// All RAM, in bytes.
    pub fn ram_size(&self) -> u64 {
        self.low + self.high
    }

    /// The end of RAM below 4 GiB.
    pub fn low_ram_end(&self) -> u64 {
        self.low
    }

    /// Addresses for 32-bit BARs: from the end of low RAM's share to ECAM.
    pub fn window_32(&self) -> Window {
        Self::WINDOW_32_START..Self::ECAM.start
    }

    /// Addresses for 64-bit BARs: from the first 1 GiB boundary above RAM to the last address.
    pub fn window_64(&self) -> Window {
        (Self::HIGH_RAM_START + self.high).next_multiple_of(GIB)..1 << self.bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_ram_is_one_range_below_the_window() {
        let layout = Layout::new(512 << 20, 36).unwrap();
        assert_eq!(layout.ram(), [RamRange { base: 0, len: 512 << 20 }]);
        assert_eq!(layout.window_64(), 4 * GIB..64 * GIB);
    }

    #[test]
    fn large_ram_goes_around_the_window_and_no_byte_is_lost() {
        for size in [3 * GIB, 3 * GIB + PAGE, 4 * GIB, 64 * GIB] {
            let layout = Layout::new(size, 46).unwrap();
            let ram = layout.ram();
            assert_eq!(ram.iter().map(|r| r.len).sum::<u64>(), size);
            assert!(ram[0].base + ram[0].len <= layout.window_32().start);
            assert!(
                ram.iter().skip(1).all(|r| r.base >= 4 * GIB && r.base + r.len <= layout.window_64().start)
            );
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for size in [0, 1, PAGE + 1] {
            assert_eq!(Layout::new(size, 46), Err(LayoutError::Size(size)));
        }
        for (size, bits) in [(64 * GIB, 36), (u64::MAX - 4095, 52), (63 * GIB, 36), (PAGE, 32)] {
            assert!(matches!(Layout::new(size, bits), Err(LayoutError::AddressBits { .. })), "{size:#x}");
        }
        assert!(Layout::new(62 * GIB, 36).is_ok());
    }
}
