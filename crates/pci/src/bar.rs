/// How many base address registers a type-0 function has.
pub const BARS: usize = 6;

const IO_FLAG: u64 = 1;
const MEMORY_64: u64 = 0b10 << 1;
const PREFETCHABLE: u64 = 1 << 3;

/// What a BAR is for (PCI Express 6.0, 7.5.1.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere. Prefetchable: reads have no side effects. That is what lets guests put it above 4 GiB.
    Memory64,
}

impl BarKind {
    /// Whether it takes two registers.
    pub fn is_64(self) -> bool {
        self == Self::Memory64
    }
}

/// A base address register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// What it is for.
    pub kind: BarKind,
    /// Its size in bytes or ports, a power of two.
    pub size: u64,
}

/// Why there can be no such BAR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BarError {
    /// A function has six, and the upper half of a 64-bit one is the next.
    #[error("BAR {index}: there are BARs 0 to 5, and a 64-bit one takes two of them")]
    Index {
        /// The index asked for.
        index: usize,
    },
    /// The register is in use.
    #[error("BAR {index}: its register is already in use")]
    Taken {
        /// The index asked for.
        index: usize,
    },
    /// No power of two, or outside of what the kind can have.
    #[error("BAR {index} of {size:#x} bytes: a {kind:?} BAR has a power of two from {least:#x} to {most:#x}")]
    Size {
        /// The index asked for.
        index: usize,
        /// The kind asked for.
        kind: BarKind,
        /// The size asked for.
        size: u64,
        /// The least size.
        least: u64,
        /// The largest size.
        most: u64,
    },
}

impl Bar {
    /// Checks it.
    pub(crate) fn new(index: usize, kind: BarKind, size: u64) -> Result<Self, BarError> {
        if index >= BARS {
            return Err(BarError::Index { index });
        }
        // Software that sizes I/O BARs may look at 16 bits only, and 256 ports are the most that PCI allows.
        let (least, most) = match kind {
            BarKind::Io => (4, 1 << 8),
            BarKind::Memory32 => (16, 1 << 31),
            BarKind::Memory64 => (16, 1 << 62),
        };
        if !size.is_power_of_two() || size < least || size > most {
            return Err(BarError::Size { index, kind, size, least, most });
        }
        Ok(Self { kind, size })
    }

    /// The bits that say what it is, and those that hold its address. Only the latter can be written, which is how
    /// software finds the size.
    pub(crate) fn registers(self) -> (u64, u64) {
        let address = !(self.size.saturating_sub(1));
        match self.kind {
            BarKind::Io => (IO_FLAG, address & 0xffff_ffff),
            BarKind::Memory32 => (0, address & 0xffff_ffff),
            BarKind::Memory64 => (MEMORY_64 | PREFETCHABLE, address),
        }
    }
}

/// A BAR that is switched on, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// Which one, 0 to 5.
    pub index: usize,
    /// What it is.
    pub bar: Bar,
    /// Its first address, a multiple of its size.
    pub base: u64,
}
