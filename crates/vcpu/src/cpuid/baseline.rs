//! Named sets of features that many hosts share.

use super::bit::Bit;
use super::feature::{Class, Feature, bit};
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
const LEVELS: [(Baseline, &[Bit]); 4] = [
    (
        Baseline::V1,
        &[
            bit("cmov"),
            bit("cx8"),
            bit("fpu"),
            bit("fxsr"),
            bit("mmx"),
            bit("syscall"),
            bit("sse"),
            bit("sse2"),
        ],
    ),
    (
        Baseline::V2,
        &[bit("cx16"), bit("lahf_lm"), bit("popcnt"), bit("pni"), bit("sse4_1"), bit("sse4_2"), bit("ssse3")],
    ),
    (
        Baseline::V3,
        &[
            bit("avx"),
            bit("avx2"),
            bit("bmi1"),
            bit("bmi2"),
            bit("f16c"),
            bit("fma"),
            bit("abm"),
            bit("movbe"),
            bit("xsave"),
        ],
    ),
    (Baseline::V4, &[bit("avx512f"), bit("avx512bw"), bit("avx512cd"), bit("avx512dq"), bit("avx512vl")]),
];

/// What a 64-bit kernel finds on every processor, and the psABI need not name. Not required, but kept.
const KERNEL: &[Bit] = &[
    bit("vme"),
    bit("de"),
    bit("pse"),
    bit("tsc"),
    bit("msr"),
    bit("pae"),
    bit("mce"),
    bit("apic"),
    bit("sep"),
    bit("mtrr"),
    bit("pge"),
    bit("mca"),
    bit("pat"),
    bit("pse36"),
    bit("clflush"),
    bit("lm"),
    bit("x2apic"),
    bit("tsc_deadline_timer"),
    bit("tsc_adjust"),
    bit("arat"),
    bit("constant_tsc"),
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
        self.bits().filter_map(Feature::of)
    }

    fn bits(self) -> impl Iterator<Item = &'static Bit> {
        let levels = LEVELS.iter().filter(move |(level, _)| self != Self::Host && *level <= self);
        levels.flat_map(|(_, bits)| bits.iter())
    }

    /// What `host` lacks for it.
    pub fn missing(self, host: &Cpuid) -> Vec<&'static Feature> {
        self.bits().filter(|bit| !has(host, bit)).filter_map(Feature::of).collect()
    }

    /// Whether a guest sees `feature`, if its host has it and nothing else is asked for.
    pub(super) fn allows(self, feature: &Feature) -> bool {
        match feature.class {
            Class::Host | Class::Nested => false,
            _ if self == Self::Host => true,
            Class::Protection | Class::Paravirtual | Class::Topology => true,
            Class::Instructions | Class::System => {
                KERNEL.contains(&feature.bit) || self.bits().any(|bit| *bit == feature.bit)
            }
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
                assert!(level.allows(feature), "{level} {}", feature.name);
                for need in needs_of(&feature.bit).filter_map(Feature::of) {
                    assert!(level.allows(need), "{level}: {} needs {}", feature.name, need.name);
                }
            }
            assert_eq!(level.name().parse(), Ok(level));
        }
    }

    #[test]
    fn an_unknown_name_gets_the_list() {
        let message = "x86-64-v9".parse::<Baseline>().unwrap_err().to_string();
        assert!(message.contains("\"x86-64-v9\" is no CPU model: use host, x86-64-v1"), "{message}");
    }
}
