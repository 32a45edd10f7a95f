use super::handles::DeviceHandle;
use drystone_limit::{LimitConfig, Rate};
use drystone_memory::RamView;
use drystone_observe::{Observe, Visitor};
use drystone_virtio::VirtioCore;
use std::sync::Arc;

/// What a virtio device shows: what it has counted, its limits, and how far its driver has come.
pub(super) struct Shown {
    pub(super) handle: DeviceHandle,
    pub(super) core: Arc<VirtioCore<RamView>>,
}

impl Observe for Shown {
    fn observe(&self, to: &mut Visitor<'_>) {
        self.handle.observe(to);
        for (name, limit) in self.handle.limits() {
            to.part(name, &Limits(limit));
        }
        self.core.observe(to);
    }
}

/// Limits that there are.
pub(super) struct Limits(pub(super) LimitConfig);

impl Observe for Limits {
    fn observe(&self, to: &mut Visitor<'_>) {
        let mut rate = |name: &str, rate: Option<Rate>| {
            if let Some(rate) = rate {
                to.number(name, rate.per_second.get());
                to.number(&format!("{name}_burst"), rate.burst());
            }
        };
        rate("bandwidth", self.0.bandwidth);
        rate("operations", self.0.operations);
    }
}
