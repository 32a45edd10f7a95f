use crate::core::Shared;
use crate::ring::Ring;
use crate::{Event, Fault, RingRef};
use drystone_memory::Mem;
use std::io;
use virtio_queue::QueueState;

/// What a worker has during one call: its rings, one snapshot of the map of guest memory, the negotiated features.
pub struct Cx<'a, M: Mem> {
    pub(crate) guard: &'a M::T,
    pub(crate) rings: &'a mut [Ring],
    pub(crate) shared: &'a Shared,
    pub(crate) features: u64,
}

impl<M: Mem> Cx<'_, M> {
    /// Opens a ring for a batch of requests and completions, which is published when it is dropped. A queue that the
    /// driver has not enabled is always empty.
    ///
    /// # Errors
    /// [`Fault::Bug`] for a queue that is not this worker's, [`Fault::Memory`] if the ring is not in guest memory.
    pub fn ring(&mut self, queue: u16) -> Result<RingRef<'_, M>, Fault> {
        let ring = self.rings.iter_mut().find(|r| r.index() == queue);
        RingRef::open(self.guard, ring.ok_or(Fault::Bug("not this worker's queue"))?, self.shared)
    }

    /// Has the driver enabled this queue?
    pub fn is_ready(&self, queue: u16) -> bool {
        self.rings.iter().any(|r| r.index() == queue && r.ready())
    }

    /// The features that were negotiated.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// A snapshot of the map of guest memory.
    pub fn memory(&self) -> &M::M {
        self.guard
    }

    /// The configuration space has changed: the generation moves on and the driver is interrupted. To be called in
    /// the very call in which it changed.
    pub fn config_changed(&self) {
        self.shared.config_changed();
    }

    /// Tells the operator that the host failed: `what` was tried.
    pub fn report(&self, what: &'static str, error: &io::Error) {
        self.shared.event(&Event::Host { what, error });
    }

    /// For offload: where the ring is and how far it got, to be given away in [`start`](crate::Worker::start). `None`
    /// if the driver has not enabled it.
    pub fn ring_state(&self, queue: u16) -> Option<QueueState> {
        self.rings.iter().find(|r| r.index() == queue && r.ready()).map(Ring::state)
    }

    /// For offload: takes the ring back in [`drain`](crate::Worker::drain), with how far it got.
    pub fn take_back(&mut self, queue: u16, next_avail: u16, next_used: u16) {
        if let Some(ring) = self.rings.iter_mut().find(|r| r.index() == queue) {
            ring.set_positions(next_avail, next_used);
        }
    }
}
