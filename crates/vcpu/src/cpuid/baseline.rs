//! Named sets of features that many hosts share.

use super::bit::Bit;
use super::feature::{Class, Feature};
use super::table::has;
use drystone_hypervisor::Cpuid;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What a guest may see of its host's features. The levels are those of the x86-64 psABI, 3.1.1; each includes the one
/// before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Baseline {
    /// All that the host can give.
    #[default]
    #[serde(rename = "host")]
    Host,
    /// Any 64-bit processor.
    #[serde(rename = "x86-64-v1")]
    V1,
    /// From about 2009: up to SSE4.2.
    #[serde(rename = "x86-64-v2")]
    V2,
    /// From about 2013: up to AVX2.
    #[serde(rename = "x86-64-v3")]
    V3,
    /// With AVX-512.
    #[serde(rename = "x86-64-v4")]
    V4,
}

/// What each level adds to the one before it.
const LEVELS: [(Baseline, &[&str]); 4] = [
    (Baseline::V1, &["cmov", "cx8", "fpu", "fxsr", "mmx", "syscall", "sse", "sse2"]),
    (Baseline::V2, &["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"]),
    (Baseline::V3, &["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"]),
    (Baseline::V4, &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]),
];

/// What a 64-bit kernel finds on every processor, and the psABI need not name. Not required, but kept.
const KERNEL: &[&str] = &[
    "vme",
    "de",
    "pse",
    "tsc",
    "msr",
    "pae",
    "mce",
    "apic",
    "sep",
    "mtrr",
    "pge",
    "mca",
    "pat",
    "pse36",
    "clflush",
    "lm",
    "x2apic",
    "tsc_deadline_timer",
    "tsc_adjust",
    "arat",
    "constant_tsc",
];

/// Leaves that a guest sees under a named baseline: identity, features, caches, topology, XSAVE, address sizes, KVM's.
const LEAVES: &[u32] = &[
    0,
    1,
    2,
    4,
    6,
    7,
    0xb,
    0xd,
    0x1d,
    0x1e,
    0x1f,
    0x4000_0000,
    0x4000_0001,
    0x8000_0000,
    0x8000_0001,
    0x8000_0002,
    0x8000_0003,
    0x8000_0004,
    0x8000_0005,
    0x8000_0006,
    0x8000_0007,
    0x8000_0008,
    0x8000_000a,
    0x8000_001d,
    0x8000_001e,
    0x8000_0021,
];

impl Baseline {
    /// All of them, the widest last.
    pub const ALL: [Self; 5] = [Self::V1, Self::V2, Self::V3, Self::V4, Self::Host];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::V1 => "x86-64-v1",
            Self::V2 => "x86-64-v2",
            Self::V3 => "x86-64-v3",
            Self::V4 => "x86-64-v4",
        }
    }

    /// What a host must have for it. [`Baseline::Host`] asks for nothing.
    pub fn required(self) -> impl Iterator<Item = &'static Feature> {
        let levels = LEVELS.iter().filter(move |(level, _)| self != Self::Host && *level <= self);
        levels.flat_map(|(_, names)| names.iter()).filter_map(|name| Feature::named(name))
    }

    /// What `host` lacks for it.
    pub fn missing(self, host: &Cpuid) -> Vec<&'static Feature> {
        self.required().filter(|f| !has(host, &f.bit)).collect()
    }

    /// Whether a guest sees `bit`, if its host has it and nothing else is asked for.
    pub(super) fn allows(self, bit: &Bit) -> bool {
        let feature = Feature::of(bit);
        match feature.map(|f| f.class) {
            Some(Class::Host | Class::Nested) => false,
            _ if self == Self::Host => true,
            Some(Class::Protection | Class::Paravirtual | Class::Topology) => true,
            _ => feature.is_some_and(|f| KERNEL.contains(&f.name) || self.required().any(|r| r == f)),
        }
    }

    /// Whether a guest sees `leaf` at all.
    pub(super) fn allows_leaf(self, leaf: u32) -> bool {
        self == Self::Host || LEAVES.contains(&leaf)
    }
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why a text names no baseline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no CPU model: use host, x86-64-v1, x86-64-v2, x86-64-v3 or x86-64-v4")]
pub struct UnknownBaseline(String);

impl FromStr for Baseline {
    type Err = UnknownBaseline;

    fn from_str(text: &str) -> Result<Self, UnknownBaseline> {
        Self::ALL.into_iter().find(|b| b.name() == text).ok_or_else(|| UnknownBaseline(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuid::depends::needs_of;

    #[test]
    fn every_level_contains_what_it_needs_and_the_level_before() {
        let names = |level: Baseline| level.required().map(|f| f.name).collect::<Vec<_>>();
        let counts =
            [Baseline::V1, Baseline::V2, Baseline::V3, Baseline::V4, Baseline::Host].map(|b| names(b).len());
        assert_eq!(counts, [8, 15, 24, 29, 0]);
        for level in [Baseline::V1, Baseline::V2, Baseline::V3, Baseline::V4] {
            for feature in level.required() {
                assert!(level.allows(&feature.bit), "{level} {}", feature.name);
                for need in needs_of(feature) {
                    assert!(level.allows(&need.bit), "{level}: {} needs {}", feature.name, need.name);
                }
            }
            assert_eq!(level.name().parse(), Ok(level));
        }
        for name in KERNEL {
            assert!(Feature::named(name).is_some(), "{name}");
        }
    }

    #[test]
    fn an_unknown_name_gets_the_list() {
        let message = "x86-64-v9".parse::<Baseline>().unwrap_err().to_string();
        assert!(message.contains("\"x86-64-v9\" is no CPU model: use host, x86-64-v1"), "{message}");
    }
}
