//! What a virtual CPU answers to CPUID: the host's answers, filtered, with the guest's own topology.
//!
//! Sources: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; the kernel's `Documentation/virt/kvm/x86/cpuid.rst`.

use drystone_hypervisor::Cpuid;

mod baseline;
mod bit;
mod compare;
mod depends;
mod error;
mod feature;
mod leaves;
mod settings;
mod summary;
mod table;
mod topology;
mod xstate;

pub use baseline::{Baseline, UnknownBaseline};
pub use bit::{Bit, BitError, Register};
pub use compare::{Comparison, Suggestion, suggest};
pub use error::ModelError;
pub use feature::{Class, Feature, FeatureBit, UnknownFeature, features};
pub use settings::{FeatureSettings, Setting, SettingsError};
pub use summary::CpuSummary;
pub use topology::{Topology, TopologyError};

use table::{has, max_leaf, register_mut, remove, set};

/// The kind of processor that a guest sees, and how many.
///
/// ```
/// use drystone_hypervisor::{Hypervisor, fake::FakeHypervisor};
/// use drystone_vcpu::cpuid::{Baseline, CpuModel, Topology};
///
/// let host = FakeHypervisor::new(|_| {}).supported_cpuid()?;
/// let mut model = CpuModel::with_topology(Topology::new(2, 2, 1)?);
/// model.baseline = Baseline::V1;
/// model.features = "-x2apic".parse()?;
/// let cpu = model.on(&host)?;
/// let answers: Vec<_> = model.topology.apic_ids().map(|id| cpu.for_vcpu(id)).collect();
/// assert_eq!(answers[3].get(1, 0).map(|leaf| leaf.ebx >> 24), Some(3));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CpuModel {
    /// How vCPUs are grouped into cores and sockets.
    pub topology: Topology,
    /// Which of the host's features they have.
    pub baseline: Baseline,
    /// What is wanted of single features beyond that.
    pub features: FeatureSettings,
}

/// A [`CpuModel`] on a host that can carry it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestCpu {
    /// As vCPU 0 sees it.
    cpuid: Cpuid,
    topology: Topology,
}

impl CpuModel {
    /// `vcpus` processors: one socket of that many cores with one thread each.
    ///
    /// # Errors
    /// [`TopologyError`] for none or too many.
    pub fn new(vcpus: u32) -> Result<Self, TopologyError> {
        Ok(Self::with_topology(Topology::new(1, vcpus, 1)?))
    }

    /// As many processors as `topology` has, with all that the host can give.
    pub fn with_topology(topology: Topology) -> Self {
        Self { topology, baseline: Baseline::Host, features: FeatureSettings::new() }
    }

    /// What the guest sees on a host that can offer `host`.
    ///
    /// Kept are identity, caches and address sizes, and of the features those that the baseline and the settings
    /// allow. Removed is what only makes sense on the host ([`Class::Host`]), and whatever needs something that was
    /// removed. Leaf 0xD lists the state that is then left. No feature is ever there that `host` does not offer, but the
    /// one that says that there is a hypervisor, and those that follow from the topology.
    ///
    /// # Errors
    /// [`ModelError`] when the host lacks what the model requires.
    pub fn on(&self, host: &Cpuid) -> Result<GuestCpu, ModelError> {
        let offer = offered(host);
        let missing = self.baseline.missing(&offer);
        if !missing.is_empty() {
            return Err(ModelError::Baseline { baseline: self.baseline, missing });
        }
        let mut cpuid = offer.clone();
        leaves::limit(&mut cpuid, self.baseline);
        self.limit_features(&mut cpuid);
        depends::close(&mut cpuid);
        leaves::details(&mut cpuid);
        leaves::repeat(&mut cpuid);
        xstate::limit(&mut cpuid, self.baseline == Baseline::Host);
        self.check_required(&offer, &cpuid)?;
        topology::apply(&mut cpuid, Vendor::of(&offer), &self.topology, 0);
        Ok(GuestCpu { cpuid, topology: self.topology })
    }

    /// Leaves in every register of features what the guest may have.
    fn limit_features(&self, cpuid: &mut Cpuid) {
        for place in feature::REGISTERS {
            let Some(entry) = cpuid.get_mut(place.leaf, place.subleaf) else { continue };
            let value = register_mut(entry, place.register);
            for bit in 0..32 {
                let bit = Bit { leaf: place.leaf, subleaf: place.subleaf, register: place.register, bit };
                let known = Feature::of(&bit).is_some();
                let allowed = match self.features.get(&bit) {
                    Some(Setting::Off) => false,
                    Some(Setting::On | Setting::Require) => known || !place.named_only,
                    None => {
                        leaves::is_repeated(&bit)
                            || self.baseline.allows(&bit) && (known || !place.named_only)
                    }
                };
                if !allowed {
                    *value &= !bit.mask();
                }
            }
        }
        // Bits of other registers can be taken away too.
        for (feature, setting) in self.features.iter() {
            if setting == Setting::Off {
                table::clear(cpuid, &feature.0);
            }
        }
    }

    fn check_required(&self, offer: &Cpuid, guest: &Cpuid) -> Result<(), ModelError> {
        let required = || self.features.iter().filter(|(_, s)| *s == Setting::Require).map(|(f, _)| f);
        let missing: Vec<_> = required().filter(|f| !has(offer, &f.0)).collect();
        if !missing.is_empty() {
            return Err(ModelError::Required { missing });
        }
        match required().find(|f| !has(guest, &f.0)) {
            Some(feature) => Err(ModelError::Unmet { feature, needs: first_unmet(&feature.0, guest) }),
            None => Ok(()),
        }
    }
}

/// The direct need of a feature that a guest does not have.
fn first_unmet(bit: &Bit, guest: &Cpuid) -> Option<&'static Feature> {
    let feature = Feature::of(bit)?;
    depends::needs_of(feature).find(|need| !has(guest, &need.bit))
}

/// What a host offers, as far as it makes sense.
fn offered(host: &Cpuid) -> Cpuid {
    let mut offer = table::normal(host);
    xstate::normal(&mut offer);
    leaves::hypervisor(&mut offer);
    if let Some(leaf) = offer.get_mut(1, 0) {
        leaf.ecx |= HYPERVISOR;
    }
    depends::close(&mut offer);
    offer
}

impl GuestCpu {
    /// All answers of the vCPU with number (local APIC ID) `id`, one of [`Topology::apic_ids`].
    pub fn for_vcpu(&self, id: u32) -> Cpuid {
        let mut cpuid = self.cpuid.clone();
        topology::apply(&mut cpuid, Vendor::of(&self.cpuid), &self.topology, id);
        cpuid
    }

    /// The features that the guest sees.
    pub fn features(&self) -> impl Iterator<Item = &'static Feature> {
        features().filter(|f| has(&self.cpuid, &f.bit))
    }

    /// Whether the guest sees the feature of this name.
    pub fn has(&self, name: &str) -> bool {
        Feature::named(name).is_some_and(|f| has(&self.cpuid, &f.bit))
    }

    /// How its vCPUs are grouped.
    pub fn topology(&self) -> Topology {
        self.topology
    }
}

/// Leaf 1 ECX: running under a hypervisor.
const HYPERVISOR: u32 = 1 << 31;

/// Whose conventions a processor follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vendor {
    /// AMD, and Hygon, which is derived from it.
    Amd,
    /// Intel, and those who follow it (Centaur, Zhaoxin).
    Intel,
}

impl Vendor {
    fn of(cpuid: &Cpuid) -> Self {
        match cpuid.get(0, 0).map(|e| (e.ebx, e.edx, e.ecx)) {
            // The twelve letters in EBX, EDX, ECX.
            Some((0x6874_7541, 0x6974_6e65, 0x444d_4163)) => Self::Amd, // AuthenticAMD
            Some((0x6f67_7948, 0x6e65_476e, 0x656e_6975)) => Self::Amd, // HygonGenuine
            _ => Self::Intel,
        }
    }
}

#[cfg(test)]
mod tests;
