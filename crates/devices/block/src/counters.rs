use drystone_observe::{Counter, Observe, Visitor};
use std::sync::atomic::{AtomicU32, Ordering};

/// What one queue did. On cache lines of its own, as another thread bumps those of the next queue.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct BlockCounters {
    /// Reads that were done.
    pub reads: Counter,
    /// Writes that were done.
    pub writes: Counter,
    /// Flushes that were done.
    pub flushes: Counter,
    /// Ranges that were discarded.
    pub discards: Counter,
    /// Ranges that were made zeros.
    pub zeroes: Counter,
    /// Bytes that were read.
    pub read_bytes: Counter,
    /// Bytes that were written.
    pub written_bytes: Counter,
    /// Requests that the host failed.
    pub errors: Counter,
    /// Requests that made no sense: malformed, outside of the disk, of an unknown kind, writes to a read-only disk, any
    /// to one that was pulled.
    pub refused: Counter,
    /// Requests that had to wait for a rate limit.
    pub throttled: Counter,
    in_flight: AtomicU32,
}

impl BlockCounters {
    /// How many requests the engine has now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Acquire)
    }

    pub(crate) fn set_in_flight(&self, requests: u32) {
        self.in_flight.store(requests, Ordering::Release);
    }

    fn all(&self) -> [(&'static str, &Counter); 10] {
        let Self {
            reads,
            writes,
            flushes,
            discards,
            zeroes,
            read_bytes,
            written_bytes,
            errors,
            refused,
            throttled,
            in_flight: _,
        } = self;
        [
            ("reads", reads),
            ("writes", writes),
            ("flushes", flushes),
            ("discards", discards),
            ("zeroes", zeroes),
            ("read_bytes", read_bytes),
            ("written_bytes", written_bytes),
            ("errors", errors),
            ("refused", refused),
            ("throttled", throttled),
        ]
    }
}

/// All queues together.
pub(crate) struct Sums<'a>(pub &'a [BlockCounters]);

impl Observe for Sums<'_> {
    fn observe(&self, to: &mut Visitor<'_>) {
        for (n, (name, _)) in BlockCounters::default().all().iter().enumerate() {
            let of = |queue: &BlockCounters| queue.all().get(n).map_or(0, |(_, counter)| counter.get());
            to.count(name, self.0.iter().map(of).fold(0, u64::wrapping_add));
        }
    }
}
