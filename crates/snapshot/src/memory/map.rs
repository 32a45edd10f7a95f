use drystone_memory::GuestRam;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use vm_memory::{Address, GuestMemoryRegion};

/// Memory is summed, and worked on, in blocks of so many bytes of its file.
pub const BLOCK: u64 = 256 << 10;
/// No machine has more: 2^52 bytes is what an x86 processor can address, and the map would be too large to be read long before.
const MAX_LEN: u64 = 1 << 52;
/// Ranges between the windows for devices; a machine has two, and may have some of hot-plugged memory.
const MAX_RANGES: usize = 1024;

/// What is where in a memory file, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryMap {
    /// The ranges of guest RAM in ascending order. Their content lies one after the other.
    ranges: Vec<MemoryRange>,
    /// CRC-32 of each block of the file, four bytes little-endian each; the last block may be short.
    #[serde(with = "serde_bytes")]
    sums: Vec<u8>,
}

/// A range of guest RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryRange {
    /// Its first guest-physical address.
    pub base: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// Why what is known of memory makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The bytes are not an encoded map.
    #[error("memory map: {0}")]
    Syntax(String),
    /// A range that is empty, not whole pages, out of order, too large or one too many.
    #[error("memory map: no guest has RAM at {base:#x} of {len:#x} bytes there")]
    Range {
        /// Its first guest-physical address.
        base: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// Not as many checksums as there are blocks.
    #[error("memory map: {found} bytes of checksums, {wanted} are wanted")]
    Sums {
        /// How many bytes there are.
        found: u64,
        /// How many there should be.
        wanted: u64,
    },
}

impl MemoryMap {
    /// The longest encoded map that is read, in bytes: that of 4 TiB.
    pub const MAX_LEN: u64 = 64 << 20;

    /// The map of `ram`, with all blocks' checksums those of zeros.
    pub(crate) fn of(ram: &GuestRam) -> Self {
        let range =
            |r: &drystone_memory::RamRegion| MemoryRange { base: r.start_addr().raw_value(), len: r.len() };
        let ranges: Vec<_> = ram.regions().iter().map(|region| range(region)).collect();
        let mut map = Self { ranges, sums: Vec::new() };
        let zeros = [crc_of_zeros(BLOCK), crc_of_zeros(map.len() % BLOCK)];
        for block in 0..map.blocks() {
            let [full, short] = zeros;
            let sum = if map.block(block).end - map.block(block).start == BLOCK { full } else { short };
            map.sums.extend(sum.to_le_bytes());
        }
        map
    }

    /// Reads an encoded map, which is untrusted.
    ///
    /// # Errors
    /// [`MapError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MapError> {
        let map: Self = crate::encoding::decode(bytes).map_err(MapError::Syntax)?;
        let (mut end, mut total) = (0_u64, 0_u64);
        for (n, &MemoryRange { base, len }) in map.ranges.iter().enumerate() {
            let bad = MapError::Range { base, len };
            let whole = len > 0 && base.is_multiple_of(super::PAGE) && len.is_multiple_of(super::PAGE);
            if !whole || (n > 0 && base < end) || n >= MAX_RANGES {
                return Err(bad);
            }
            end = base.checked_add(len).filter(|end| *end <= MAX_LEN).ok_or(bad)?;
            total += len;
        }
        let (found, wanted) = (map.sums.len() as u64, total.div_ceil(BLOCK) * 4);
        if found != wanted {
            return Err(MapError::Sums { found, wanted });
        }
        Ok(map)
    }

    /// Its encoded form.
    ///
    /// # Errors
    /// What the encoder said.
    pub fn to_bytes(&self) -> Result<Vec<u8>, String> {
        crate::encoding::encode(self)
    }

    /// The ranges of guest RAM, in ascending order.
    pub fn ranges(&self) -> &[MemoryRange] {
        &self.ranges
    }

    /// The length of the memory file in bytes: all of RAM.
    #[allow(clippy::len_without_is_empty)] // that of a machine without RAM says nothing
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|r| r.len).sum()
    }

    /// How many blocks there are.
    pub(crate) fn blocks(&self) -> usize {
        self.len().div_ceil(BLOCK) as usize
    }

    /// The bytes of the file that are in a block.
    pub(crate) fn block(&self, n: usize) -> Range<u64> {
        let start = n as u64 * BLOCK;
        start..self.len().min(start + BLOCK)
    }

    /// A block's checksum; 0 for one that there is not.
    pub(crate) fn sum(&self, block: usize) -> u32 {
        let bytes = self.sums.as_chunks().0.get(block).copied();
        bytes.map_or(0, u32::from_le_bytes)
    }

    pub(crate) fn set_sum(&mut self, block: usize, sum: u32) {
        if let Some(bytes) = self.sums.as_chunks_mut().0.get_mut(block) {
            *bytes = sum.to_le_bytes();
        }
    }

    /// Where in the file a guest-physical range is, as far as it is RAM.
    pub(crate) fn in_file(&self, part: Range<u64>) -> Vec<Range<u64>> {
        let mut offset = 0;
        let mut found = Vec::new();
        for range in &self.ranges {
            let start = part.start.max(range.base);
            let end = part.end.min(range.base + range.len);
            if start < end {
                found.push(offset + start - range.base..offset + end - range.base);
            }
            offset += range.len;
        }
        found
    }

    /// The guest-physical address of a byte of the file.
    pub(crate) fn address(&self, at: u64) -> u64 {
        let mut offset = 0;
        for range in &self.ranges {
            if at < offset + range.len {
                return range.base + at - offset;
            }
            offset += range.len;
        }
        u64::MAX
    }
}

fn crc_of_zeros(len: u64) -> u32 {
    crc32fast::hash(&vec![0; len as usize])
}

/// The checksum of a full block of zeros.
pub(crate) fn zero_sum() -> u32 {
    crc_of_zeros(BLOCK)
}
