use crate::LimitConfig;
use crate::bucket::Bucket;
use drystone_bus::Clock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a request takes: one operation, and its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of payload; 0 for a request without one, such as a flush.
    pub bytes: u64,
}

/// The place of a request that could not pass at once. It is not `Clone`: one request, one place. Whoever gives up
/// waiting hands it to [`Limiter::cancel`].
#[derive(Debug)]
#[must_use = "a dropped ticket has taken tokens for a request that never passes"]
pub struct Ticket {
    bandwidth: u128,
    operations: u128,
    cost: Cost,
}

/// Bandwidth and operations of one device, or of several that share. All methods may be called from any thread.
///
/// The promise, over any interval while requests wait: what passes is at most the rate times the interval plus the burst
/// plus one request, and at least the rate times the interval less one request, as long as whoever waits asks again no
/// later than the burst lasts. Without a limit a request costs one relaxed load.
pub struct Limiter {
    clock: Arc<dyn Clock>,
    limited: AtomicBool,
    inner: Mutex<Inner>,
}

pub(crate) struct Inner {
    pub(crate) bandwidth: Bucket,
    pub(crate) operations: Bucket,
    /// Up to when time has been granted.
    at: Duration,
    paused: bool,
}

impl Limiter {
    /// A limiter with a full burst.
    pub fn new(config: LimitConfig, clock: Arc<dyn Clock>) -> Self {
        let inner = Inner {
            bandwidth: Bucket::new(config.bandwidth),
            operations: Bucket::new(config.operations),
            at: clock.monotonic(),
            paused: false,
        };
        Self { clock, limited: AtomicBool::new(is_limit(&config)), inner: Mutex::new(inner) }
    }

    /// Lets a request of `cost` pass.
    ///
    /// # Errors
    /// Its [`Ticket`] if it must wait: keep both, and ask [`ready`](Self::ready).
    pub fn take(&self, cost: Cost) -> Result<(), Ticket> {
        if !self.limited.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut inner = self.now();
        let bandwidth = inner.bandwidth.ask(cost.bytes);
        let ticket = Ticket { bandwidth, operations: inner.operations.ask(1), cost };
        if inner.wait(&ticket).is_zero() { Ok(()) } else { Err(ticket) }
    }

    /// Whether the request that `ticket` stands for may pass now; the ticket is then used up and may be dropped.
    ///
    /// # Errors
    /// How long to wait before asking again, never zero: what to arm a timer with. It may have to wait longer if the
    /// rate is lowered meanwhile, and less if it is raised: see [`configure`](Self::configure).
    pub fn ready(&self, ticket: &Ticket) -> Result<(), Duration> {
        let wait = self.now().wait(ticket);
        if wait.is_zero() { Ok(()) } else { Err(wait) }
    }

    /// Gives up a request that waits; those behind it move up.
    pub fn cancel(&self, ticket: Ticket) {
        self.refund(ticket.cost);
    }

    /// Gives back what a request took that passed and then came to nothing.
    pub fn refund(&self, cost: Cost) {
        let mut inner = self.now();
        inner.bandwidth.refund(cost.bytes);
        inner.operations.refund(1);
    }

    /// Other limits from now on. Whoever waits should ask again at once.
    pub fn configure(&self, config: LimitConfig) {
        let mut inner = self.now();
        inner.bandwidth.set_rate(config.bandwidth);
        inner.operations.set_rate(config.operations);
        self.limited.store(is_limit(&config), Ordering::Relaxed);
    }

    /// The limits that hold now.
    pub fn config(&self) -> LimitConfig {
        let inner = self.lock();
        LimitConfig { bandwidth: inner.bandwidth.rate(), operations: inner.operations.rate() }
    }

    /// From here to [`resume`](Self::resume) no time passes for it, so a pause is neither a rest that earns a burst nor
    /// time that is lost.
    pub fn pause(&self) {
        self.now().paused = true;
    }

    /// Time goes on.
    pub fn resume(&self) {
        let mut inner = self.lock();
        if inner.paused {
            (inner.at, inner.paused) = (self.clock.monotonic(), false);
        }
    }

    /// Full, as its constructor made it; the rates stay, and it is not paused. Nobody may hold a ticket.
    pub fn reset(&self) {
        let mut inner = self.lock();
        let Inner { bandwidth, operations, at, paused } = &mut *inner;
        bandwidth.set_saved(u128::MAX);
        operations.set_saved(u128::MAX);
        (*at, *paused) = (self.clock.monotonic(), false);
    }

    /// Locked, with all time granted up to now.
    pub(crate) fn now(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.lock();
        let now = self.clock.monotonic();
        if !inner.paused {
            let elapsed = now.saturating_sub(inner.at);
            inner.bandwidth.advance(elapsed);
            inner.operations.advance(elapsed);
            inner.at = inner.at.max(now);
        }
        inner
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn wait(&self, ticket: &Ticket) -> Duration {
        self.bandwidth.wait(ticket.bandwidth).max(self.operations.wait(ticket.operations))
    }
}

fn is_limit(config: &LimitConfig) -> bool {
    config.bandwidth.is_some() || config.operations.is_some()
}

#[cfg(test)]
mod tests;
