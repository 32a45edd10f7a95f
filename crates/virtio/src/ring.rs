//! One split ring (2.7), on top of `virtio_queue::Queue`, which keeps the registers, their validation and the positions.
//!
//! The walk and the batch are ours, for three reasons: `Queue` translates the address of every access anew; it
//! publishes used buffers one by one; and its iterators turn a malformed chain into a shorter one.
mod arm;
mod batch;
mod span;
mod walk;

pub use batch::RingRef;

use crate::{Chain, Fault};
use drystone_memory::Mem;
use span::Areas;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use virtio_queue::{Queue, QueueState, QueueT};

/// Spare chains with room for more segments than this are not kept.
const SPARE_SEGS: usize = 64;

/// What outlives a batch. It lives in a lane.
pub(crate) struct Ring {
    index: u16,
    queue: Queue,
    /// VIRTIO_F_INDIRECT_DESC was negotiated.
    indirect: bool,
    /// Popped, and neither completed nor put back.
    in_flight: u16,
    /// How many of those were dropped alive. Another one after every reset: it is what chains are recognised by.
    dropped: Arc<AtomicU16>,
    /// Heads of those that were put back when later ones were on their way already: they are handed out first.
    returned: VecDeque<u16>,
    /// Completed since the driver was last considered for an interrupt.
    added: u16,
    /// Chains that this call may still pop, so that no guest can hold a lane for ever.
    budget: u16,
    /// Work is left over: call again.
    more: bool,
    fault: Option<Fault>,
    spare: Vec<Chain>,
}

/// Where a driver has put a ring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placement {
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    pub next_avail: u16,
    pub next_used: u16,
}

impl Ring {
    pub fn new(index: u16, max_size: u16) -> Result<Self, virtio_queue::Error> {
        Ok(Self {
            index,
            queue: Queue::new(max_size)?,
            indirect: false,
            in_flight: 0,
            dropped: Arc::default(),
            returned: VecDeque::new(),
            added: 0,
            budget: 0,
            more: false,
            fault: None,
            spare: Vec::new(),
        })
    }

    pub fn index(&self) -> u16 {
        self.index
    }

    pub fn ready(&self) -> bool {
        self.queue.ready()
    }

    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    pub fn state(&self) -> QueueState {
        self.queue.state()
    }

    /// See [`RingRef::put_back`].
    pub fn returned(&self) -> Vec<u16> {
        self.returned.iter().copied().collect()
    }

    pub fn set_returned(&mut self, heads: &[u16]) {
        self.returned = heads.iter().copied().collect();
    }

    pub fn set_positions(&mut self, next_avail: u16, next_used: u16) {
        self.queue.set_next_avail(next_avail);
        self.queue.set_next_used(next_used);
    }

    /// Takes over what the driver has set up, if it can be a ring at all.
    pub fn attach(&mut self, at: &Placement) -> Result<(), Fault> {
        let state = QueueState {
            max_size: self.queue.max_size(),
            next_avail: at.next_avail,
            next_used: at.next_used,
            event_idx_enabled: false,
            size: at.size,
            ready: true,
            desc_table: at.descriptors,
            avail_ring: at.available,
            used_ring: at.used,
        };
        let bad = |_| Fault::Ring { queue: self.index, what: "size or alignment" };
        self.queue = Queue::try_from(state).map_err(bad)?;
        Ok(())
    }

    /// Before a lane runs: the features that were negotiated, and whether the ring is in guest memory.
    pub fn prepare<M: Mem>(&mut self, memory: &M::M, event_idx: bool, indirect: bool) -> Result<(), Fault> {
        if self.ready() && !Areas::<M>::accessible(memory, &self.queue) {
            return Err(Fault::Ring { queue: self.index, what: "not in guest memory" });
        }
        self.queue.set_event_idx(event_idx);
        self.indirect = indirect;
        Ok(())
    }

    /// Before a call. Without a share (a pause) every `pop` gives `None`.
    pub fn begin(&mut self, serve: bool) {
        self.budget = if serve { self.queue.size() } else { 0 };
        self.more = false;
    }

    /// After a call: is there more to do, or has something gone wrong?
    pub fn end(&mut self) -> Result<bool, Fault> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        if self.dropped.load(Ordering::Acquire) != 0 {
            return Err(Fault::Bug("a request was dropped without being completed"));
        }
        Ok(self.more)
    }

    /// Has every chain come home? Then nothing can touch guest memory for this ring.
    pub fn is_home(&self) -> bool {
        self.dropped.load(Ordering::Acquire) == self.in_flight
    }

    /// As built. Only when every chain is home.
    pub fn reset(&mut self) {
        let Self {
            index: _,
            queue,
            indirect,
            in_flight,
            dropped,
            returned,
            added,
            budget,
            more,
            fault,
            spare,
        } = self;
        returned.clear();
        queue.reset();
        *dropped = Arc::default();
        (*in_flight, *added, *budget) = (0, 0, 0);
        (*indirect, *more, *fault) = (false, false, None);
        spare.clear();
    }

    /// A chain without segments, not alive yet.
    fn blank(&mut self) -> Chain {
        let mut chain = self.spare.pop().unwrap_or_else(|| Chain::blank(self.dropped.clone()));
        chain.0.segs.clear();
        (chain.0.readable_len, chain.0.writable_len) = (0, 0);
        chain
    }

    /// Is it one of ours, from after the last reset?
    fn owns(&self, chain: &Chain) -> bool {
        Arc::ptr_eq(&self.dropped, &chain.0.dropped)
    }

    /// The end of a chain that was not lost.
    fn retire(&mut self, mut chain: Chain) {
        chain.0.live = false;
        self.in_flight = self.in_flight.saturating_sub(1);
        if chain.0.segs.capacity() <= SPARE_SEGS {
            self.spare.push(chain);
        }
    }
}
