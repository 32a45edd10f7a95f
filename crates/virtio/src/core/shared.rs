use super::status::{DRIVER_OK, NEEDS_RESET};
use crate::{Event, Interrupts, Observer};
use drystone_observe::Counter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// What every lane uses, without a lock.
pub(crate) struct Shared {
    pub interrupts: Arc<dyn Interrupts>,
    observer: Arc<dyn Observer>,
    pub status: AtomicU8,
    pub generation: AtomicU32,
    /// How often a lane was stopped.
    pub faults: Counter,
}

impl Shared {
    pub fn new(interrupts: Arc<dyn Interrupts>, observer: Arc<dyn Observer>) -> Self {
        Self {
            interrupts,
            observer,
            status: AtomicU8::new(0),
            generation: AtomicU32::new(0),
            faults: Counter::default(),
        }
    }

    pub fn event(&self, event: &Event<'_>) {
        self.observer.event(event);
    }

    pub fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
        if self.status.load(Ordering::Acquire) & DRIVER_OK != 0 {
            self.interrupts.config();
        }
    }

    /// Sets DEVICE_NEEDS_RESET, and tells a driver that is running (2.1.2).
    pub fn needs_reset(&self) {
        let old = self.status.fetch_or(NEEDS_RESET, Ordering::SeqCst);
        if old & (NEEDS_RESET | DRIVER_OK) == DRIVER_OK {
            self.interrupts.config();
        }
    }
}
