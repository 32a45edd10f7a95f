use std::fmt;
use std::str::FromStr;

/// A result register of CPUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // their own names
pub enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

impl Register {
    pub(super) const ALL: [Self; 4] = [Self::Eax, Self::Ebx, Self::Ecx, Self::Edx];

    fn name(self) -> &'static str {
        match self {
            Self::Eax => "eax",
            Self::Ebx => "ebx",
            Self::Ecx => "ecx",
            Self::Edx => "edx",
        }
    }
}

/// One bit of CPUID. Written `7.0.ebx.5` (leaf, subleaf, register, bit), or `0x80000001.ecx.5` for a leaf that has no
/// subleaves; leaf and subleaf decimal, or hexadecimal after `0x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bit {
    /// EAX on input.
    pub leaf: u32,
    /// ECX on input; 0 for a leaf that has no subleaves.
    pub subleaf: u32,
    /// Where the answer is.
    pub register: Register,
    /// From 0 to 31.
    pub bit: u8,
}

impl Bit {
    /// The bit's value in its register.
    pub fn mask(&self) -> u32 {
        1_u32.checked_shl(self.bit.into()).unwrap_or(0)
    }
}

impl fmt::Display for Bit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}.{:#x}.{}.{}", self.leaf, self.subleaf, self.register.name(), self.bit)
    }
}

/// Why a text names no bit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no CPUID bit: write leaf.subleaf.register.bit, such as 7.0.ebx.5")]
pub struct BitError(String);

impl FromStr for Bit {
    type Err = BitError;

    fn from_str(text: &str) -> Result<Self, BitError> {
        let parts: Vec<_> = text.split('.').collect();
        let parsed = match parts.as_slice() {
            [leaf, register, bit] => parse(leaf, "0", register, bit),
            [leaf, subleaf, register, bit] => parse(leaf, subleaf, register, bit),
            _ => None,
        };
        parsed.ok_or_else(|| BitError(text.into()))
    }
}

fn parse(leaf: &str, subleaf: &str, register: &str, bit: &str) -> Option<Bit> {
    let register = Register::ALL.into_iter().find(|r| r.name() == register)?;
    let bit = bit.parse().ok().filter(|bit| *bit < 32)?;
    Some(Bit { leaf: number(leaf)?, subleaf: number(subleaf)?, register, bit })
}

/// Decimal, or hexadecimal after `0x`; without a sign.
fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) if hex.starts_with(|c: char| c.is_ascii_hexdigit()) => u32::from_str_radix(hex, 16).ok(),
        None if text.starts_with(|c: char| c.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_read_as_they_are_written() {
        let avx2 = Bit { leaf: 7, subleaf: 0, register: Register::Ebx, bit: 5 };
        for text in ["7.0.ebx.5", "0x7.0x0.ebx.5", "7.ebx.5"] {
            assert_eq!(text.parse(), Ok(avx2), "{text}");
        }
        assert_eq!(avx2.to_string().parse(), Ok(avx2));
        assert_eq!("0x80000001.ecx.5".parse::<Bit>().map(|b| (b.leaf, b.mask())), Ok((0x8000_0001, 32)));
        for text in
            ["", "7", "7.0.ebx", "7.0.ebx.32", "7.0.efx.1", "+7.0.ebx.1", "0x+7.0.ebx.1", "7.0.ebx.1.2"]
        {
            assert!(text.parse::<Bit>().is_err(), "{text}");
        }
    }
}
