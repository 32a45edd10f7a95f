use super::Header;
use crate::Cause;
use crate::bytes::{read, table};
use std::collections::BTreeSet;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bits 9 to 55 of an entry of either table: where in the file it points to.
pub(crate) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Nobody else refers to that.
const COPIED: u64 = 1 << 63;

/// Clusters past the end of the file that may be counted: some that were allocated and never written.
const SLACK: u64 = 1 << 20;

/// Which parts of the disk have a second-level table of their own, so that nothing but data has to be allocated for them.
#[derive(Debug)]
pub(crate) struct Tables {
    /// log2 of the bytes of disk that a table is for.
    reach_bits: u32,
    own: Vec<AtomicU64>,
}

impl Tables {
    /// As the first-level table says.
    pub fn of(l1: &[u64], header: &Header) -> Self {
        let tables = Self::none(header, header.size);
        for (index, _) in l1.iter().enumerate().filter(|(_, e)| **e & COPIED != 0 && **e & OFFSET != 0) {
            tables.add(index as u64);
        }
        tables
    }

    /// For a disk of `size` bytes of which it is not known.
    fn none(header: &Header, size: u64) -> Self {
        let entries = size.div_ceil(header.l2_reach());
        let words = usize::try_from(entries.div_ceil(64)).unwrap_or(usize::MAX);
        let own = (0..words).map(|_| AtomicU64::new(0)).collect();
        Self { reach_bits: 2 * header.cluster_bits - 3, own }
    }

    /// The disk is larger now.
    pub fn grow(&mut self, header: &Header) {
        let mut larger = Self::none(header, header.size);
        larger.own.iter_mut().zip(self.own.drain(..)).for_each(|(new, old)| *new = old);
        *self = larger;
    }

    fn add(&self, index: u64) {
        let word = usize::try_from(index / 64).ok().and_then(|at| self.own.get(at));
        if let Some(word) = word {
            word.fetch_or(1 << (index % 64), Ordering::AcqRel);
        }
    }

    fn has(&self, index: u64) -> bool {
        let word = usize::try_from(index / 64).ok().and_then(|at| self.own.get(at));
        word.is_some_and(|word| word.load(Ordering::Acquire) & 1 << (index % 64) != 0)
    }

    fn indices(&self, offset: u64, len: u64) -> std::ops::RangeInclusive<u64> {
        let last = offset.saturating_add(len).saturating_sub(1);
        offset >> self.reach_bits..=last >> self.reach_bits
    }

    /// Whether all of these bytes have.
    pub fn have(&self, offset: u64, len: u64) -> bool {
        len == 0 || self.indices(offset, len).all(|index| self.has(index))
    }

    /// All of these bytes have from now on.
    pub fn set(&self, offset: u64, len: u64) {
        if len > 0 {
            self.indices(offset, len).for_each(|index| self.add(index));
        }
    }
}

/// The first-level table. Second-level tables are in the file, each at a place of its own: so no more of them come into memory than the
/// file has.
pub(crate) fn first_level(file: &File, header: &Header) -> Result<Vec<u64>, Cause> {
    let len = header.l1_entries as usize * 8;
    let bytes = read(file, header.l1_offset, len).map_err(Cause::host("read the first-level table"))?;
    let end = crate::bytes::len(file).map_err(Cause::host("find its length"))?;
    let l1: Vec<u64> = table(&bytes).collect();
    let mut places: Vec<u64> = l1.iter().map(|e| e & !COPIED).filter(|place| *place != 0).collect();
    places.sort_unstable();
    let bad = |what: &str| Err(Cause::damaged(format!("an entry of the first-level table {what}")));
    if places.iter().any(|place| place & !OFFSET != 0 || !place.is_multiple_of(header.cluster())) {
        return bad("is no place in the file");
    }
    if places.last().is_some_and(|last| *last >= end) {
        return bad("lies past the end of the file");
    }
    if places.windows(2).any(|two| two.first() == two.last()) {
        return bad("is the same as another");
    }
    Ok(l1)
}

/// The refcount table, looked at for what would make an allocation endless or hand the same block out twice.
pub(crate) fn refcount_table(file: &File, header: &Header) -> Result<Vec<u64>, Cause> {
    let end = crate::bytes::len(file).map_err(Cause::host("find its length"))?;
    let len = header.refcount_table_len() as usize;
    let bytes = read(file, header.refcount_offset, len).map_err(Cause::host("read the refcount table"))?;
    let counted = end.div_ceil(header.cluster()) + SLACK;
    let entries: Vec<u64> = table(&bytes).collect();
    let mut seen = BTreeSet::new();
    for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| **entry != 0) {
        let bad = |what: &str| Cause::damaged(format!("entry {index} of the refcount table {what}"));
        if entry & !OFFSET != 0 || !entry.is_multiple_of(header.cluster()) {
            return Err(bad("is no place in the file"));
        }
        if *entry >= end {
            return Err(bad("lies past the end of the file"));
        }
        if (index as u64).saturating_mul(header.refcount_reach()) > counted {
            return Err(bad("is for a part that the file does not have"));
        }
        if !seen.insert(entry) {
            return Err(bad("is the same as another"));
        }
    }
    Ok(entries)
}
