use std::fmt;
use std::str::FromStr;

/// Numbers of registers, both ends included. Written `0x10a`, or `0xc0010000-0xc0010007`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MsrRange {
    first: u32,
    last: u32,
}

/// Why a text is no range of registers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MsrRangeError {
    /// No number.
    #[error("{0:?} is no MSR: write a number or two, such as 0x10a or 0xc0010000-0xc0010007")]
    Number(String),
    /// The first is behind the last.
    #[error("MSRs {0}: the first is behind the last")]
    Backwards(String),
}

impl MsrRange {
    /// From `first` to `last`.
    ///
    /// # Errors
    /// [`MsrRangeError::Backwards`].
    pub fn new(first: u32, last: u32) -> Result<Self, MsrRangeError> {
        if first > last {
            return Err(MsrRangeError::Backwards(format!("{first:#x}-{last:#x}")));
        }
        Ok(Self { first, last })
    }

    pub(super) const fn of(first: u32, last: u32) -> Self {
        Self { first, last }
    }

    /// The lowest number.
    pub fn first(&self) -> u32 {
        self.first
    }

    /// The highest number.
    pub fn last(&self) -> u32 {
        self.last
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        u64::from(self.last - self.first) + 1
    }

    /// Whether `index` is one of them.
    pub fn contains(&self, index: u32) -> bool {
        (self.first..=self.last).contains(&index)
    }

    /// Whether some are in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// What is left without `other`: below it and above it.
    pub(super) fn without(self, other: &Self) -> impl Iterator<Item = Self> + use<> {
        if !self.overlaps(other) {
            return [Some(self), None].into_iter().flatten();
        }
        let below = other.first.checked_sub(1).filter(|last| *last >= self.first);
        let above = other.last.checked_add(1).filter(|first| *first <= self.last);
        let below = below.map(|last| Self { last, ..self });
        [below, above.map(|first| Self { first, ..self })].into_iter().flatten()
    }
}

impl fmt::Display for MsrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.first)?;
        if self.last != self.first { write!(f, "-{:#x}", self.last) } else { Ok(()) }
    }
}

impl FromStr for MsrRange {
    type Err = MsrRangeError;

    fn from_str(text: &str) -> Result<Self, MsrRangeError> {
        let wrong = || MsrRangeError::Number(text.into());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| number(text.trim()).ok_or_else(wrong);
        let (first, last) = (number(first)?, number(last)?);
        if first > last { Err(MsrRangeError::Backwards(text.into())) } else { Ok(Self { first, last }) }
    }
}

/// Decimal, or hexadecimal after `0x`; without a sign.
fn number(text: &str) -> Option<u32> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |hex| (hex, 16));
    digits.chars().all(|c| c.is_digit(radix)).then(|| u32::from_str_radix(digits, radix).ok()).flatten()
}
