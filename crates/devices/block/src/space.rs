//! The configuration space (5.2.4) and the features that it belongs to (5.2.3).
use crate::request::{MAX_DISCARD, MAX_SEGMENT, MAX_SEGMENTS, MAX_ZEROES, SECTOR};
use crate::shared::Shared;

const F_SIZE_MAX: u64 = 1 << 1;
const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
pub(crate) const F_FLUSH: u64 = 1 << 9;
const F_TOPOLOGY: u64 = 1 << 10;
pub(crate) const F_CONFIG_WCE: u64 = 1 << 11;
const F_MQ: u64 = 1 << 12;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

/// Up to what belongs to writing zeros.
pub(crate) const LEN: usize = 60;
const WRITEBACK: u64 = 32;

/// Sectors are the unit of everything.
const BLOCK_SIZE: u32 = 512;
/// Physical blocks of 2^3 logical ones: 4096 bytes, which is what hosts' caches and disks work in.
const PHYSICAL_BLOCK_EXPONENT: u8 = 3;
/// What the driver should do at least and at once, in logical blocks: the same.
const LEAST_IO: u16 = 8;

pub(crate) fn features(read_only: bool, queues: u16) -> u64 {
    let mut features = F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE;
    features |= if read_only { F_RO } else { F_DISCARD | F_WRITE_ZEROES };
    if queues > 1 {
        features |= F_MQ;
    }
    features
}

/// The most pieces of data in a request that fit into a ring with head and status, also without indirect descriptors.
fn max_segments(queue_size: u16) -> u32 {
    MAX_SEGMENTS.min(u32::from(queue_size).saturating_sub(2)).max(1)
}

/// All of it, as the driver sees it.
pub(crate) fn content(shared: &Shared, queue_size: u16) -> [u8; LEN] {
    let mut space = [0; LEN];
    let mut put = |at: usize, bytes: &[u8]| {
        space.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
    };
    put(0, &shared.sectors().to_le_bytes());
    put(8, &MAX_SEGMENT.to_le_bytes());
    put(12, &max_segments(queue_size).to_le_bytes());
    put(20, &BLOCK_SIZE.to_le_bytes());
    put(24, &[PHYSICAL_BLOCK_EXPONENT]);
    put(26, &LEAST_IO.to_le_bytes());
    put(32, &[shared.writeback().into()]);
    put(34, &u16::try_from(shared.counters.len()).unwrap_or(u16::MAX).to_le_bytes());
    if !shared.read_only {
        let sectors = |bytes: u64| u32::try_from(bytes / SECTOR).unwrap_or(u32::MAX).to_le_bytes();
        // How many at most, in how many ranges, and for holes where they should begin.
        put(36, &sectors(MAX_DISCARD));
        put(40, &1u32.to_le_bytes());
        put(44, &u32::from(LEAST_IO).to_le_bytes());
        put(48, &sectors(MAX_ZEROES));
        put(52, &1u32.to_le_bytes());
        put(56, &[1]);
    }
    space
}

/// What the driver writes to `writeback`, if the write covers it. Nothing else can be written.
pub(crate) fn writeback(offset: u64, data: &[u8]) -> Option<bool> {
    let at = usize::try_from(WRITEBACK.checked_sub(offset)?).ok()?;
    data.get(at).map(|value| *value & 1 != 0)
}
