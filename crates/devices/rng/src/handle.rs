use crate::RngCounters;
use drystone_limit::{LimitConfig, Limiter};
use drystone_observe::{Observe, Visitor};
use drystone_virtio::Timer;
use std::sync::Arc;
use std::time::Duration;

/// What a VMM keeps of an entropy device while its guest runs. Cheap to clone.
#[derive(Clone)]
pub struct RngHandle {
    pub(crate) shared: Arc<Shared>,
    /// Wakes the worker.
    pub(crate) timer: Timer,
}

/// What the device and its handle share.
pub(crate) struct Shared {
    pub counters: RngCounters,
    pub limiter: Limiter,
}

impl RngHandle {
    /// What the device has done.
    pub fn counters(&self) -> &RngCounters {
        &self.shared.counters
    }

    /// The rate limits that hold now.
    pub fn limit(&self) -> LimitConfig {
        self.shared.limiter.config()
    }

    /// Other rate limits from now on, also for a request that waits.
    pub fn set_limit(&self, limit: LimitConfig) {
        self.shared.limiter.configure(limit);
        // The one that waits has set its timer by the old rates.
        self.timer.set(Duration::ZERO);
    }
}

impl Observe for RngHandle {
    fn observe(&self, to: &mut Visitor<'_>) {
        self.shared.counters.observe(to);
    }
}
