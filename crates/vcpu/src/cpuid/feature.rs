//! Features of a processor by name, as data.

use super::bit::Bit;
use std::fmt;
use std::str::FromStr;

mod table;

pub(super) use table::{FEATURES, REGISTERS};

/// What a feature is for, which decides who gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Class {
    /// Instructions that programs use, with the registers that belong to them. A baseline is a list of these.
    Instructions,
    /// What a kernel uses: paging, timers, interrupt controllers.
    System,
    /// What protects a guest, above all from its processor's own faults. Every baseline keeps it where the host has it.
    Protection,
    /// What the hypervisor brings (leaf 0x4000_0001, kernel document virt/kvm/x86/cpuid).
    Paravirtual,
    /// Follows from how vCPUs are grouped.
    Topology,
    /// Virtualisation for the guest's own guests. Never given: what such a guest holds is no part of a saved machine, and
    /// would outlive a reset.
    Nested,
    /// Makes sense on the host only (power, performance counters, tracing, resource control, enclaves), or mirrors a
    /// control register, which the hypervisor maintains. Never given.
    Host,
}

/// A named bit of CPUID. Names are those of the kernel's /proc/cpuinfo.
#[derive(Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub class: Class,
    /// Where it is.
    pub bit: Bit,
}

/// Other names that people use for the same.
const ALIASES: &[(&str, &str)] = &[
    ("sse3", "pni"),
    ("sse4.1", "sse4_1"),
    ("sse4.2", "sse4_2"),
    ("cmpxchg16b", "cx16"),
    ("lzcnt", "abm"),
    ("sha", "sha_ni"),
    ("invtsc", "constant_tsc"),
    ("nonstop_tsc", "constant_tsc"),
    ("tsc_deadline", "tsc_deadline_timer"),
    ("steal_time", "kvm_steal_time"),
    ("kvm_clock", "kvmclock2"),
];

/// All features that have a name, by leaf.
pub fn features() -> impl Iterator<Item = &'static Feature> {
    table::FEATURES.iter().flat_map(|part| part.iter())
}

/// The bit of the feature with this name, at compile time: a name that is none does not compile.
#[allow(clippy::panic)] // by the compiler
pub(super) const fn bit(name: &str) -> Bit {
    let mut registers = FEATURES;
    while let [features, others @ ..] = registers {
        let mut features = *features;
        while let [feature, rest @ ..] = features {
            if same(feature.name.as_bytes(), name.as_bytes()) {
                return feature.bit;
            }
            features = rest;
        }
        registers = others;
    }
    panic!("no feature has this name")
}

const fn same(mut a: &[u8], mut b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    while let ([x, more @ ..], [y, others @ ..]) = (a, b) {
        if *x != *y {
            return false;
        }
        (a, b) = (more, others);
    }
    true
}

impl Feature {
    /// The feature of this name (or one of its usual other names).
    pub fn named(name: &str) -> Option<&'static Self> {
        let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
        features().find(|f| f.name == name)
    }

    /// The feature that this bit means.
    pub fn of(bit: &Bit) -> Option<&'static Self> {
        features().find(|f| f.bit == *bit)
    }
}

/// A feature by its name, or any bit by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FeatureBit(pub Bit);

/// Why a text is no feature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no feature{}: write a name as in /proc/cpuinfo, or a bit such as 7.0.ebx.5", like(.name))]
pub struct UnknownFeature {
    name: String,
}

/// What was perhaps meant: a name that has the same letters and digits, or begins alike.
fn like(name: &str) -> String {
    let plain = |name: &str| name.replace(['_', '-', '.'], "").to_ascii_lowercase();
    let wanted = plain(name);
    let near = features().find(|f| plain(f.name) == wanted);
    near.map(|f| format!(" (did you mean {}?)", f.name)).unwrap_or_default()
}

impl FromStr for FeatureBit {
    type Err = UnknownFeature;

    fn from_str(text: &str) -> Result<Self, UnknownFeature> {
        if let Some(feature) = Feature::named(text) {
            return Ok(Self(feature.bit));
        }
        text.parse().map(Self).map_err(|_| UnknownFeature { name: text.into() })
    }
}

impl fmt::Display for FeatureBit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Feature::of(&self.0) {
            Some(feature) => f.write_str(feature.name),
            None => self.0.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_and_bits_are_used_once_and_lie_in_registers_of_features() {
        let all: Vec<_> = features().collect();
        assert!(all.len() > 200);
        assert_eq!(all.iter().map(|f| f.name).collect::<BTreeSet<_>>().len(), all.len(), "names");
        assert_eq!(all.iter().map(|f| f.bit).collect::<BTreeSet<_>>().len(), all.len(), "bits");
        for feature in all {
            let Bit { leaf, subleaf, register, .. } = feature.bit;
            let places =
                REGISTERS.iter().filter(|r| (r.leaf, r.subleaf, r.register) == (leaf, subleaf, register));
            assert_eq!(places.count(), 1, "{}", feature.name);
            assert_eq!(feature.name.parse(), Ok(FeatureBit(feature.bit)));
            assert_eq!(FeatureBit(feature.bit).to_string(), feature.name);
        }
        for (alias, name) in ALIASES {
            assert_eq!(Feature::named(alias).map(|f| f.name), Some(*name), "{alias}");
        }
    }

    #[test]
    fn what_is_no_feature_is_said_with_a_guess() {
        let error = |text: &str| text.parse::<FeatureBit>().unwrap_err().to_string();
        assert!(error("avx512-f").contains("did you mean avx512f?"));
        assert!(error("frobnicate").starts_with("\"frobnicate\" is no feature: write a name"));
        assert_eq!("0x123.eax.0".parse::<FeatureBit>().unwrap().to_string(), "0x123.0x0.eax.0");
    }
}
