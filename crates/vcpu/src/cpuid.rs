//! What a virtual CPU answers to CPUID: the host's answers, filtered, with the guest's own topology.
//!
//! Sources: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; the kernel's `Documentation/virt/kvm/x86/cpuid.rst`.

use drystone_hypervisor::Cpuid;

mod addresses;
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
    /// How wide guest-physical addresses are, in bits; as wide as the host's unless given. For hosts that differ.
    pub physical_bits: Option<u8>,
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
        Self { topology, baseline: Baseline::Host, features: FeatureSettings::new(), physical_bits: None }
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
        addresses::limit(&mut cpuid, self.physical_bits)?;
        self.check_required(&offer, &cpuid)?;
        topology::apply(&mut cpuid, Vendor::of(&offer), &self.topology, 0);
        Ok(GuestCpu { cpuid, topology: self.topology })
    }

    /// Leaves in every register of features what the guest may have.
    fn limit_features(&self, cpuid: &mut Cpuid) {
        for (place, named) in feature::REGISTERS.iter().zip(feature::FEATURES) {
            let mask = |features: &mut dyn Iterator<Item = &Feature>| {
                features.fold(0, |mask, f| mask | f.bit.mask())
            };
            let known = mask(&mut named.iter());
            let unnamed = if self.baseline == Baseline::Host && !place.named_only { !known } else { 0 };
            let mut allowed = mask(&mut named.iter().filter(|f| self.baseline.allows(f)))
                | unnamed
                | leaves::repeated(place.leaf, place.register);
            for (FeatureBit(bit), setting) in self.features.iter() {
                let here =
                    (bit.leaf, bit.subleaf, bit.register) == (place.leaf, place.subleaf, place.register);
                let givable = known & bit.mask() != 0 || !place.named_only;
                if here {
                    table::set(&mut allowed, bit.mask(), setting != Setting::Off && givable);
                }
            }
            if let Some(entry) = cpuid.get_mut(place.leaf, place.subleaf) {
                *register_mut(entry, place.register) &= allowed;
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
    depends::needs_of(bit).find(|need| !has(guest, need)).and_then(Feature::of)
}

/// Features that a table has without everything that they need: other features, or a place for their state in leaf 0xD.
pub fn unmet(cpuid: &Cpuid) -> Vec<&'static Feature> {
    let bits = xstate::without_state(cpuid).into_iter().chain(depends::unmet(cpuid));
    bits.filter_map(|bit| Feature::of(&bit)).collect()
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

    /// How wide a guest-physical address is.
    pub fn physical_address_bits(&self) -> u8 {
        self.cpuid.physical_address_bits()
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
