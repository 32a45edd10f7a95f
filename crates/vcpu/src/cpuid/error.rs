use super::baseline::Baseline;
use super::feature::{Feature, FeatureBit};

/// Why a host cannot carry a CPU model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// It lacks features of the baseline.
    #[error("this host cannot be {baseline}: it lacks {}", names(.missing))]
    Baseline {
        /// The baseline.
        baseline: Baseline,
        /// What is missing.
        missing: Vec<&'static Feature>,
    },
    /// It lacks features that were required one by one.
    #[error("this host lacks {}, which must be there", list(.missing))]
    Required {
        /// What is missing.
        missing: Vec<FeatureBit>,
    },
    /// Addresses wider than the host's, or narrower than any processor's.
    #[error("{asked} bits of a physical address: must be {least} to {host}, which is this host's width")]
    PhysicalBits {
        /// What was asked for.
        asked: u8,
        /// The least.
        least: u8,
        /// What the host has.
        host: u8,
    },
    /// A feature that must be there is taken away by what else was asked for.
    #[error("{feature} must be there, and is not{}", because(.needs))]
    Unmet {
        /// The feature.
        feature: FeatureBit,
        /// What it needs and the guest does not have, if that is why.
        needs: Option<&'static Feature>,
    },
}

fn names(features: &[&Feature]) -> String {
    features.iter().map(|f| f.name).collect::<Vec<_>>().join(", ")
}

fn list(features: &[FeatureBit]) -> String {
    features.iter().map(FeatureBit::to_string).collect::<Vec<_>>().join(", ")
}

fn because(needs: &Option<&'static Feature>) -> String {
    needs.map(|f| format!(": it needs {}, which the guest does not have", f.name)).unwrap_or_default()
}
