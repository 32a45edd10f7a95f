use crate::{Bar, BarKind};
use std::ops::Range;

const GIB_4: u64 = 1 << 32;
/// The finest placement of a memory BAR: two BARs never share a page, so that each can be mapped by itself.
const PAGE: u64 = 4096;

/// The addresses that a segment's BARs may claim; everything else on the bus is somebody else's. An empty range stands
/// for a window that does not exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Windows {
    /// Memory below 4 GiB.
    pub memory_32: Range<u64>,
    /// Memory, usually above 4 GiB.
    pub memory_64: Range<u64>,
    /// I/O ports.
    pub io: Range<u16>,
}

/// Why windows make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WindowsError {
    /// Not in whole pages.
    #[error("PCI window {start:#x}..{end:#x}: must begin and end on a multiple of 4096")]
    Alignment {
        /// First address.
        start: u64,
        /// The address after the last.
        end: u64,
    },
    /// The window for 32-bit BARs does not lie below 4 GiB.
    #[error("PCI window {start:#x}..{end:#x}: 32-bit BARs must be below 4 GiB")]
    Above4Gib {
        /// First address.
        start: u64,
        /// The address after the last.
        end: u64,
    },
    /// The two windows for memory have addresses in common.
    #[error("PCI windows for 32-bit and 64-bit BARs overlap")]
    Overlap,
}

impl Windows {
    pub(crate) fn check(&self) -> Result<(), WindowsError> {
        let memory = [&self.memory_32, &self.memory_64];
        for Range { start, end } in memory.into_iter().cloned() {
            if !start.is_multiple_of(PAGE) || !end.is_multiple_of(PAGE) {
                return Err(WindowsError::Alignment { start, end });
            }
        }
        let Range { start, end } = self.memory_32;
        if end > GIB_4 {
            return Err(WindowsError::Above4Gib { start, end });
        }
        let both = !self.memory_32.is_empty() && !self.memory_64.is_empty();
        if both && start < self.memory_64.end && self.memory_64.start < end {
            return Err(WindowsError::Overlap);
        }
        Ok(())
    }

    /// Whether a BAR may claim `size` addresses from `base` on.
    pub(crate) fn allow(&self, kind: BarKind, base: u64, size: u64) -> bool {
        let Some(end) = base.checked_add(size) else { return false };
        let within = |window: &Range<u64>| window.start <= base && end <= window.end;
        match kind {
            BarKind::Io => within(&self.io()),
            BarKind::Memory32 | BarKind::Memory64 => within(&self.memory_32) || within(&self.memory_64),
        }
    }

    /// The lowest place for `bar` that meets nothing in `taken`: in the 64-bit window if it can be there.
    pub(crate) fn place(&self, bar: Bar, taken: &[Range<u64>]) -> Option<u64> {
        let windows = match bar.kind {
            BarKind::Io => vec![self.io()],
            BarKind::Memory32 => vec![self.memory_32.clone()],
            BarKind::Memory64 => vec![self.memory_64.clone(), self.memory_32.clone()],
        };
        let align = if bar.kind == BarKind::Io { bar.size } else { bar.size.max(PAGE) };
        windows.into_iter().find_map(|window| first_gap(&window, bar.size, align, taken))
    }

    fn io(&self) -> Range<u64> {
        self.io.start.into()..self.io.end.into()
    }
}

fn first_gap(window: &Range<u64>, size: u64, align: u64, taken: &[Range<u64>]) -> Option<u64> {
    let mut base = window.start.checked_next_multiple_of(align)?;
    loop {
        let end = base.checked_add(size).filter(|end| *end <= window.end)?;
        match taken.iter().filter(|t| t.start < end && base < t.end).map(|t| t.end).max() {
            None => return Some(base),
            Some(after) => base = after.checked_next_multiple_of(align)?,
        }
    }
}
