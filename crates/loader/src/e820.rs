use crate::error::BootParamsError;
use crate::map::{CONVENTIONAL_END, HIGH_MEMORY};
use drystone_memory::Layout;
use linux_loader::loader::bootparam::E820_MAX_ENTRIES_ZEROPAGE;
use std::ops::Range;

/// What a range of guest-physical addresses is for the guest (ACPI 6.5, 15.1: address range types).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapKind {
    /// RAM that the guest may use: type 1.
    Ram,
    /// Not to be used: type 2.
    Reserved,
}

/// One range of the memory map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapEntry {
    /// The addresses; not empty.
    pub range: Range<u64>,
    /// What they are.
    pub kind: MapKind,
}

/// The memory map that the guest is given (e820): ascending, without overlap, never more entries than the boot
/// parameters have room for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryMap {
    entries: Vec<MapEntry>,
    reserved: Vec<Range<u64>>,
}

impl MemoryMap {
    /// The most entries that the boot parameters hold.
    pub const MAX_ENTRIES: usize = E820_MAX_ENTRIES_ZEROPAGE;

    /// Describes `layout`'s RAM: usable but for the part between 639 KiB and 1 MiB, where the ACPI tables are, and
    /// for what lies in `reserved`. Those ranges are listed as reserved whether they are in RAM or not, for example an
    /// ECAM window; they may overlap.
    ///
    /// # Errors
    /// [`BootParamsError::Range`] for an empty range, [`BootParamsError::TooManyRanges`].
    pub fn new(layout: &Layout, reserved: &[Range<u64>]) -> Result<Self, BootParamsError> {
        let too_many = |count| BootParamsError::TooManyRanges { count, max: Self::MAX_ENTRIES };
        if reserved.len() > Self::MAX_ENTRIES {
            return Err(too_many(reserved.len()));
        }
        if let Some(range) = reserved.iter().find(|r| r.is_empty()) {
            return Err(BootParamsError::Range { start: range.start, end: range.end });
        }
        let firmware = std::iter::once(CONVENTIONAL_END..HIGH_MEMORY);
        let holes = merge(reserved.iter().cloned().chain(firmware).collect());
        let ram = layout.ram().into_iter().map(|r| r.base..r.base + r.len);
        let ram = ram.flat_map(|range| subtract(range, &holes));
        let mut entries: Vec<_> = ram
            .map(|range| MapEntry { range, kind: MapKind::Ram })
            .chain(holes.iter().map(|range| MapEntry { range: range.clone(), kind: MapKind::Reserved }))
            .collect();
        entries.sort_by_key(|e| e.range.start);
        if entries.len() > Self::MAX_ENTRIES {
            return Err(too_many(entries.len()));
        }
        Ok(Self { entries, reserved: reserved.to_vec() })
    }

    /// All entries, in ascending order.
    pub fn entries(&self) -> &[MapEntry] {
        &self.entries
    }

    /// Refuses a reserved range over `piece`, named `what` in the error.
    pub(crate) fn check_free(&self, piece: &Range<u64>, what: &'static str) -> Result<(), BootParamsError> {
        match self.reserved.iter().find(|r| r.start < piece.end && piece.start < r.end) {
            Some(r) => Err(BootParamsError::Overlap { start: r.start, end: r.end, what }),
            None => Ok(()),
        }
    }
}

/// Sorts, and joins what overlaps or touches.
fn merge(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|r| r.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// What is left of `range` without `holes`, which are merged.
fn subtract(range: Range<u64>, holes: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = Vec::new();
    let mut at = range.start;
    for hole in holes.iter().filter(|h| h.start < range.end && range.start < h.end) {
        left.push(at..hole.start);
        at = hole.end;
    }
    left.push(at..range.end);
    left.retain(|r| !r.is_empty());
    left
}

#[cfg(test)]
mod tests;
