use super::Pci;
use super::common::Generation;
use super::signals::SavedSignals;
use crate::CoreState;
use drystone_memory::Mem;
use drystone_pci::ConfigState;
use drystone_state::{Persist, RestoreError, SaveError, Schema};
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;

/// The saved state of a [`Pci`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PciState {
    /// Configuration space, with the MSI-X structures.
    pub config: ConfigState,
    /// The ISR status.
    pub isr: u8,
    /// config_msix_vector.
    pub config_vector: u16,
    /// queue_msix_vector of each queue.
    pub queue_vectors: Vec<u16>,
    /// device_feature_select.
    pub device_features_select: u32,
    /// driver_feature_select.
    pub driver_features_select: u32,
    /// queue_select.
    pub queue_select: u16,
    /// config_generation as the driver last read it.
    pub generation: u8,
    /// The core's generation that this was for.
    pub generation_of: u32,
    /// What is behind the registers.
    pub core: CoreState,
}

impl Schema for PciState {
    const KIND: &'static str = "virtio-pci";
    const VERSION: u32 = 1;
}

impl<M: Mem> Persist for Pci<M> {
    type State = PciState;

    fn save(&self) -> Result<PciState, SaveError> {
        let SavedSignals { isr, config_vector, queue_vectors } = self.signals.save();
        let Generation { of: generation_of, shown: generation } = self.common.seen();
        Ok(PciState {
            config: self.signals.config.save()?,
            isr,
            config_vector,
            queue_vectors,
            device_features_select: self.common.device_features.load(Ordering::Relaxed),
            driver_features_select: self.common.driver_features.load(Ordering::Relaxed),
            queue_select: self.common.queue.load(Ordering::Relaxed),
            generation,
            generation_of,
            core: self.core.save()?,
        })
    }

    /// The device comes out paused.
    fn restore(&self, state: PciState) -> Result<(), RestoreError> {
        let PciState {
            config,
            isr,
            config_vector,
            queue_vectors,
            device_features_select,
            driver_features_select,
            queue_select,
            generation,
            generation_of,
            core,
        } = state;
        let signals = SavedSignals { isr, config_vector, queue_vectors };
        let invalid = |cause| RestoreError::Invalid { kind: PciState::KIND, cause };
        self.signals.check(&signals).map_err(invalid)?;
        self.signals.config.restore(config)?;
        if let Err(refused) = self.core.restore(core) {
            // Whole or not at all: it was as built before.
            self.signals.config.reset();
            return Err(refused);
        }
        self.signals.restore(&signals);
        self.common.device_features.store(device_features_select, Ordering::Relaxed);
        self.common.driver_features.store(driver_features_select, Ordering::Relaxed);
        self.common.queue.store(queue_select, Ordering::Relaxed);
        self.common.set_seen(Generation { of: generation_of, shown: generation });
        Ok(())
    }
}
