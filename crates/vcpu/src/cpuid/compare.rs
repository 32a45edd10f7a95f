//! How two processors differ, and what they can both be.

use super::baseline::Baseline;
use super::feature::{Class, Feature, FeatureBit};
use super::settings::{FeatureSettings, Setting};
use super::summary::CpuSummary;
use super::topology::Topology;
use super::{CpuModel, ModelError};
use drystone_hypervisor::Cpuid;

/// What two processors do not have in common. Topology is not compared: it is the machine's and not the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Comparison {
    /// Features that only the first has.
    pub only_first: Vec<FeatureBit>,
    /// Features that only the second has.
    pub only_second: Vec<FeatureBit>,
    /// What else a guest would notice: what, and what it is on the first and on the second.
    pub other: Vec<(&'static str, String, String)>,
    /// Differences that a guest that moves survives: names and revisions.
    pub notes: Vec<(&'static str, String, String)>,
}

impl Comparison {
    /// Compares what two tables say.
    pub fn of(first: &Cpuid, second: &Cpuid) -> Self {
        let (a, b) = (CpuSummary::of(first), CpuSummary::of(second));
        let only = |one: &CpuSummary, two: &CpuSummary| {
            let counts = |f: &&FeatureBit| Feature::of(&f.0).is_none_or(|f| f.class != Class::Topology);
            one.features.difference(&two.features).filter(counts).copied().collect()
        };
        let differing = |fields: Vec<(&'static str, String, String)>| {
            fields.into_iter().filter(|(_, first, second)| first != second).collect()
        };
        let hypervisor = |cpu: &CpuSummary| cpu.hypervisor.clone().unwrap_or_else(|| "none".into());
        let components = |cpu: &CpuSummary| format!("{:?}", cpu.xsave_components);
        let revision = |cpu: &CpuSummary| format!("{}/{}/{}", cpu.family, cpu.model, cpu.stepping);
        Self {
            only_first: only(&a, &b),
            only_second: only(&b, &a),
            other: differing(vec![
                ("vendor", a.vendor.clone(), b.vendor.clone()),
                ("hypervisor", hypervisor(&a), hypervisor(&b)),
                ("physical address bits", a.physical_bits.to_string(), b.physical_bits.to_string()),
                ("linear address bits", a.linear_bits.to_string(), b.linear_bits.to_string()),
                ("XSAVE components", components(&a), components(&b)),
                ("XSAVE bytes", a.xsave_bytes.to_string(), b.xsave_bytes.to_string()),
            ]),
            notes: differing(vec![
                ("family/model/stepping", revision(&a), revision(&b)),
                ("brand", a.brand.clone(), b.brand.clone()),
            ]),
        }
    }

    /// What the first has and a guest that moves from it to the second would miss there, in words.
    pub fn missing_on_second(&self) -> Vec<String> {
        let features = self.only_first.iter().map(ToString::to_string);
        // That the second has more of anything is no harm: the guest goes on seeing what it saw.
        // Components of XSAVE belong to features, which are compared by themselves.
        let other = self.other.iter().filter(|(what, ..)| *what != "XSAVE components");
        let other = other.filter(|(_, first, second)| match (first.parse(), second.parse()) {
            (Ok::<u32, _>(first), Ok::<u32, _>(second)) => first > second,
            _ => true,
        });
        features.chain(other.map(|(what, first, second)| format!("{what} {first} (here {second})"))).collect()
    }

    /// Whether a guest can go from one to the other and back and miss nothing.
    pub fn is_equal(&self) -> bool {
        self.only_first.is_empty() && self.only_second.is_empty() && self.other.is_empty()
    }
}

/// A model that two hosts can both carry, so that a guest sees the same features on each.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Suggestion {
    /// The widest baseline that both have.
    pub baseline: Baseline,
    /// What must be taken away beside it, because only one of them has it.
    pub features: FeatureSettings,
    /// The width of physical addresses, if the hosts differ in it.
    pub physical_bits: Option<u8>,
}

/// What to run guests as that shall move between two hosts, which offer `first` and `second`. `None` if not even the
/// narrowest baseline fits both, or if they are of different vendors: no model hides that.
pub fn suggest(first: &Cpuid, second: &Cpuid) -> Option<Suggestion> {
    let (a, b) = (CpuSummary::of(first), CpuSummary::of(second));
    if a.vendor != b.vendor {
        return None;
    }
    let widths = [first, second].map(Cpuid::physical_address_bits);
    let narrower = widths.into_iter().min();
    let mut model = CpuModel::with_topology(Topology::single());
    model.physical_bits = narrower.filter(|bits| widths.iter().any(|width| width != bits));
    let (baseline, Comparison { only_first, only_second, .. }) = Baseline::ALL
        .into_iter()
        .rev()
        .filter_map(|baseline| {
            model.baseline = baseline;
            Some((baseline, both(first, second, &model).ok()?))
        })
        .find(|(baseline, comparison)| *baseline != Baseline::Host || comparison.is_equal())?;
    let mut features = FeatureSettings::new();
    for feature in only_first.into_iter().chain(only_second) {
        // Whatever can differ can be taken away.
        let _ = features.set(feature, Setting::Off);
    }
    Some(Suggestion { baseline, features, physical_bits: model.physical_bits })
}

/// How guests differ that are `model` on two hosts.
fn both(first: &Cpuid, second: &Cpuid, model: &CpuModel) -> Result<Comparison, ModelError> {
    Ok(Comparison::of(&model.on(first)?.for_vcpu(0), &model.on(second)?.for_vcpu(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use drystone_testkit::hosts::{self, HASWELL, MILAN, SAPPHIRE_RAPIDS, WESTMERE};

    fn names(features: &[FeatureBit]) -> Vec<String> {
        features.iter().map(FeatureBit::to_string).collect()
    }

    #[test]
    fn a_host_is_like_itself() {
        for host in hosts::ALL {
            let table = host.table();
            let comparison = Comparison::of(&table, &table);
            assert!(comparison.is_equal() && comparison.notes.is_empty(), "{}", host.name);
            let suggestion = suggest(&table, &table).unwrap();
            assert_eq!((suggestion.baseline, suggestion.features.is_empty()), (Baseline::Host, true));
        }
    }

    #[test]
    fn what_each_lacks_is_said() {
        let comparison = Comparison::of(&HASWELL.table(), &SAPPHIRE_RAPIDS.table());
        assert!(!comparison.is_equal());
        assert!(names(&comparison.only_second).contains(&"avx512f".into()));
        assert!(names(&comparison.only_first).iter().all(|f| f != "avx2"));
        assert!(comparison.other.iter().any(|(what, ..)| *what == "XSAVE bytes"));
        assert!(
            comparison.notes.iter().any(|(what, a, _)| *what == "family/model/stepping" && a == "6/63/2")
        );
    }

    #[test]
    fn a_suggestion_makes_two_hosts_alike() {
        for (a, b, expected) in [
            (HASWELL, SAPPHIRE_RAPIDS, Baseline::V3),
            (WESTMERE, HASWELL, Baseline::V2),
            (hosts::GENOA, MILAN, Baseline::V3),
        ] {
            let (first, second) = (a.table(), b.table());
            let suggestion = suggest(&first, &second).unwrap();
            assert_eq!(suggestion.baseline, expected, "{} {}", a.name, b.name);
            let mut model = CpuModel::with_topology(Topology::single());
            (model.baseline, model.features) = (expected, suggestion.features);
            model.physical_bits = suggestion.physical_bits;
            let comparison = both(&first, &second, &model).unwrap();
            assert!(comparison.is_equal(), "{} {}: {comparison:?}", a.name, b.name);
        }
    }

    #[test]
    fn vendors_do_not_mix() {
        assert_eq!(suggest(&HASWELL.table(), &MILAN.table()), None);
    }
}
