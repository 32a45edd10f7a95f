//! What a table of CPUID answers says, for people and for comparing.

use super::bit::Bit;
use super::feature::{Class, Feature, FeatureBit, REGISTERS};
use super::table::register;
use super::xstate;
use drystone_hypervisor::Cpuid;
use std::collections::BTreeSet;

/// What a processor is, read from its answers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CpuSummary {
    /// `GenuineIntel`, `AuthenticAMD` or another twelve letters.
    pub vendor: String,
    /// As /proc/cpuinfo has it: with the extended family added.
    pub family: u32,
    /// As /proc/cpuinfo has it: with the extended model before it.
    pub model: u32,
    /// The revision of the model.
    pub stepping: u32,
    /// The name that it gives itself.
    pub brand: String,
    /// Width of a guest-physical address.
    pub physical_bits: u32,
    /// Width of a linear address.
    pub linear_bits: u32,
    /// Bytes that XSAVE's area takes at most.
    pub xsave_bytes: u32,
    /// State components that can be switched, by number.
    pub xsave_components: Vec<u32>,
    /// The twelve letters of the hypervisor that it says to run under; `KVMKVMKVM`.
    pub hypervisor: Option<String>,
    /// All feature bits, also those without a name.
    pub features: BTreeSet<FeatureBit>,
}

impl CpuSummary {
    /// Reads `cpuid`, which may be anything.
    pub fn of(cpuid: &Cpuid) -> Self {
        let signature = cpuid.get(1, 0).map_or(0, |e| e.eax);
        let (base_family, base_model) = (signature >> 8 & 0xf, signature >> 4 & 0xf);
        let (more_family, more_model) = (signature >> 20 & 0xff, signature >> 16 & 0xf);
        let sizes = cpuid.get(0x8000_0008, 0).map_or([0; 4], |e| e.eax.to_le_bytes());
        let components = xstate::components(cpuid);
        Self {
            vendor: cpuid.get(0, 0).map(|e| letters(&[e.ebx, e.edx, e.ecx])).unwrap_or_default(),
            family: if base_family == 0xf { base_family + more_family } else { base_family },
            model: if base_family >= 6 { base_model | more_model << 4 } else { base_model },
            stepping: signature & 0xf,
            brand: brand(cpuid),
            physical_bits: cpuid.physical_address_bits().into(),
            linear_bits: sizes[1].into(),
            xsave_bytes: xstate::area_size(cpuid),
            xsave_components: (0..64).filter(|n| components >> n & 1 == 1).collect(),
            hypervisor: cpuid.get(0x4000_0000, 0).map(|e| letters(&[e.ebx, e.ecx, e.edx])),
            features: feature_bits(cpuid).collect(),
        }
    }

    /// The features of one class that have a name, by name; without a class those that have none.
    pub fn in_class(&self, class: Option<Class>) -> Vec<String> {
        let of_class = self.features.iter().filter(|f| Feature::of(&f.0).map(|f| f.class) == class);
        let mut names: Vec<_> = of_class.map(FeatureBit::to_string).collect();
        names.sort();
        names
    }
}

/// All bits that are set in registers of features.
pub(super) fn feature_bits(cpuid: &Cpuid) -> impl Iterator<Item = FeatureBit> + use<> {
    let mut found = Vec::new();
    for place in REGISTERS {
        let value = cpuid.get(place.leaf, place.subleaf).map_or(0, |e| register(e, place.register));
        let bits = (0..32).map(|bit| Bit {
            leaf: place.leaf,
            subleaf: place.subleaf,
            register: place.register,
            bit,
        });
        let value = value & !super::leaves::repeated(place.leaf, place.register);
        let set = bits.filter(|bit| value & bit.mask() != 0);
        found.extend(set.map(FeatureBit));
    }
    found.into_iter()
}

fn brand(cpuid: &Cpuid) -> String {
    let leaves = (0x8000_0002..=0x8000_0004).filter_map(|leaf| cpuid.get(leaf, 0));
    let words: Vec<_> = leaves.flat_map(|e| [e.eax, e.ebx, e.ecx, e.edx]).collect();
    letters(&words).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Printable ASCII in these registers, up to the first zero: a table from elsewhere must not control a terminal.
fn letters(words: &[u32]) -> String {
    let bytes = words.iter().flat_map(|word| word.to_le_bytes()).take_while(|b| *b != 0);
    bytes.filter(|b| (b' '..=b'~').contains(b)).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use drystone_testkit::hosts;

    #[test]
    fn recorded_hosts_are_who_they_are() {
        let cpu = CpuSummary::of(&hosts::SAPPHIRE_RAPIDS.table());
        assert_eq!((cpu.vendor.as_str(), cpu.family, cpu.model, cpu.stepping), ("GenuineIntel", 6, 0x8f, 8));
        assert_eq!(cpu.brand, "Intel(R) Xeon(R) w7-2475X");
        assert_eq!((cpu.physical_bits, cpu.linear_bits, cpu.xsave_bytes), (52, 57, 0x2b00));
        assert_eq!(cpu.hypervisor.as_deref(), Some("KVMKVMKVM"));
        assert!(cpu.in_class(Some(Class::Instructions)).iter().any(|f| f == "amx_tile"));
        let cpu = CpuSummary::of(&hosts::GENOA.table());
        assert_eq!(
            (cpu.vendor.as_str(), cpu.family, cpu.model, cpu.stepping),
            ("AuthenticAMD", 0x19, 0x11, 1)
        );
        assert_eq!(cpu.brand, "AMD EPYC 9654 96-Core Processor");
        assert_eq!(cpu.xsave_components, [0, 1, 2, 5, 6, 7, 9, 11, 12]);
    }

    #[test]
    fn nothing_is_nobody() {
        let cpu = CpuSummary::of(&Cpuid::default());
        assert_eq!((cpu.vendor.as_str(), cpu.family, cpu.features.len(), cpu.hypervisor), ("", 0, 0, None));
    }

    #[test]
    fn letters_are_only_letters() {
        assert_eq!(letters(&[u32::from_le_bytes(*b"a\x1b[b"), u32::from_le_bytes(*b"c\0d\0")]), "a[bc");
    }
}
