use super::Mmio;
use super::interrupt::Line;
use crate::CoreState;
use drystone_memory::Mem;
use drystone_state::{Persist, RestoreError, SaveError, Schema};
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;

/// The saved state of an [`Mmio`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MmioState {
    /// InterruptStatus.
    pub interrupt_status: u32,
    /// DeviceFeaturesSel.
    pub device_features_select: u32,
    /// DriverFeaturesSel.
    pub driver_features_select: u32,
    /// QueueSel.
    pub queue_select: u32,
    /// SHMSel.
    pub shared_memory_select: u32,
    /// What is behind the registers.
    pub core: CoreState,
}

impl Schema for MmioState {
    const KIND: &'static str = "virtio-mmio";
    const VERSION: u32 = 1;
}

impl<M: Mem> Persist for Mmio<M> {
    type State = MmioState;

    fn save(&self) -> Result<MmioState, SaveError> {
        let selected = &self.selectors;
        Ok(MmioState {
            interrupt_status: self.line.status(),
            device_features_select: selected.device_features.load(Ordering::Relaxed),
            driver_features_select: selected.driver_features.load(Ordering::Relaxed),
            queue_select: selected.queue.load(Ordering::Relaxed),
            shared_memory_select: selected.shared_memory.load(Ordering::Relaxed),
            core: self.core.save()?,
        })
    }

    /// The device comes out paused.
    fn restore(&self, state: MmioState) -> Result<(), RestoreError> {
        let MmioState {
            interrupt_status,
            device_features_select,
            driver_features_select,
            queue_select,
            shared_memory_select,
            core,
        } = state;
        if interrupt_status & !Line::KNOWN != 0 {
            let cause = format!("interrupt status {interrupt_status:#x}");
            return Err(RestoreError::Invalid { kind: MmioState::KIND, cause });
        }
        self.core.restore(core)?;
        let selected = &self.selectors;
        selected.device_features.store(device_features_select, Ordering::Relaxed);
        selected.driver_features.store(driver_features_select, Ordering::Relaxed);
        selected.queue.store(queue_select, Ordering::Relaxed);
        selected.shared_memory.store(shared_memory_select, Ordering::Relaxed);
        self.line.restore(interrupt_status);
        Ok(())
    }
}
