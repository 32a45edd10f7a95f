//! The memory map, for people.

use core::fmt::{self, Display, Write};

/// One range of it; kinds are numbered as in e820.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub start: u64,
    pub len: u64,
    pub kind: u32,
}

pub const RAM: u32 = 1;

/// A number of bytes in the largest unit that it is a whole number of.
pub struct Bytes(pub u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        match units.iter().find(|(shift, _)| self.0 != 0 && self.0.trailing_zeros() >= *shift) {
            Some((shift, unit)) => write!(f, "{} {unit}", self.0 >> shift),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// Below is what a PC keeps for its firmware: RAM that the map calls reserved.
const MIB: u64 = 1 << 20;

/// All that may be used, in bytes.
pub fn usable(ranges: impl Iterator<Item = Range>) -> u64 {
    ranges.filter(|r| r.kind == RAM).fold(0, |sum, r| sum.saturating_add(r.len))
}

/// All RAM, in bytes: also what firmware keeps of the lowest MiB.
pub fn total(ranges: impl Iterator<Item = Range> + Clone) -> u64 {
    let kept = ranges.clone().filter(|r| r.kind != RAM && r.start < MIB && r.len <= MIB - r.start);
    kept.fold(usable(ranges), |sum, r| sum.saturating_add(r.len))
}

/// Prints every range, and the holes between them.
pub fn print(out: &mut dyn Write, ranges: impl Iterator<Item = Range>) {
    let mut end = 0;
    for range in ranges {
        if range.start > end {
            one(out, end, range.start - end, "hole");
        }
        let kind = match range.kind {
            RAM => "RAM",
            2 => "reserved",
            3 => "ACPI tables",
            4 => "ACPI, to be kept",
            5 => "broken",
            _ => "of a kind unknown to this guest",
        };
        one(out, range.start, range.len, kind);
        end = range.start.saturating_add(range.len);
    }
}

fn one(out: &mut dyn Write, start: u64, len: u64, what: &str) {
    say!(out, "  {start:#014x}..{:#014x} {:>12} {what}", start.saturating_add(len), Padded(Bytes(len)));
}

/// To the right of 12 columns.
struct Padded(Bytes);

impl Display for Padded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Text { bytes: [0; 24], len: 0 };
        write!(text, "{}", self.0)?;
        f.pad(core::str::from_utf8(text.bytes.get(..text.len).unwrap_or_default()).unwrap_or_default())
    }
}

struct Text {
    bytes: [u8; 24],
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let to = self.bytes.get_mut(self.len..self.len + s.len()).ok_or(fmt::Error)?;
        to.copy_from_slice(s.as_bytes());
        self.len += s.len();
        Ok(())
    }
}
