use crate::{LimitConfig, LimitGroup};
use drystone_bus::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a request takes: one operation, and its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of payload; 0 for a request without one, such as a flush.
    pub bytes: u64,
}

/// The place of a request that could not pass at once. It is not `Clone`: one request, one place. Dropping it gives the place up, if
/// the request has not passed.
#[must_use = "dropping it gives the place up"]
pub struct Ticket {
    group: LimitGroup,
    number: u64,
    passed: AtomicBool,
    cost: Cost,
}

/// Bandwidth and operations of one device, alone or as a member of a [`LimitGroup`]. All methods may be called from any
/// thread.
///
/// The promise, over any interval while requests wait: what passes is at most the rate times the interval plus the burst
/// plus one request, and at least the rate times the interval less one request, as long as whoever waits asks again no
/// later than the burst lasts. In a group that is what passes of all members together. Without a limit a request costs one relaxed load.
pub struct Limiter {
    group: LimitGroup,
    member: u64,
}

impl Limiter {
    /// A limiter with a full burst, for one device alone.
    pub fn new(config: LimitConfig, clock: Arc<dyn Clock>) -> Self {
        LimitGroup::new(config, clock).join()
    }

    pub(crate) fn of(group: LimitGroup, member: u64) -> Self {
        Self { group, member }
    }

    /// The group that it is a member of, which is its own if it is alone.
    pub fn group(&self) -> &LimitGroup {
        &self.group
    }

    /// Lets a request of `cost` pass.
    ///
    /// # Errors
    /// Its [`Ticket`] if it must wait: keep both, and ask [`ready`](Self::ready).
    pub fn take(&self, cost: Cost) -> Result<(), Ticket> {
        if !self.group.is_limited() {
            return Ok(());
        }
        self.group.ask(self.member, cost).map_or(Ok(()), |number| {
            Err(Ticket { group: self.group.clone(), number, passed: AtomicBool::new(false), cost })
        })
    }

    /// Whether the request that `ticket` stands for may pass now; the ticket is then used up and may be dropped.
    ///
    /// # Errors
    /// How long to wait before asking again, never zero: what to arm a timer with. It may have to wait longer if the
    /// rate is lowered meanwhile, or another member of the group asks for less than its share; and less if the rate is raised: see
    /// [`configure`](Self::configure).
    pub fn ready(&self, ticket: &Ticket) -> Result<(), Duration> {
        let wait = self.group.wait(ticket.number);
        if !wait.is_zero() {
            return Err(wait);
        }
        ticket.passed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Gives up a request that waits, or has passed and came to nothing; those behind it move up.
    pub fn cancel(&self, ticket: Ticket) {
        if ticket.passed.load(Ordering::Relaxed) {
            self.refund(ticket.cost);
        }
    }

    /// Gives back what a request took that passed and then came to nothing.
    pub fn refund(&self, cost: Cost) {
        self.group.refund(cost);
    }

    /// Other limits from now on, for the whole group. Whoever waits should ask again at once.
    pub fn configure(&self, config: LimitConfig) {
        self.group.configure(config);
    }

    /// The limits that hold now.
    pub fn config(&self) -> LimitConfig {
        self.group.config()
    }

    /// From here to [`resume`](Self::resume) no time passes for it, so a pause is neither a rest that earns a burst nor
    /// time that is lost. For a group no time passes while all its members are paused.
    pub fn pause(&self) {
        self.group.pause(self.member, true);
    }

    /// Time goes on.
    pub fn resume(&self) {
        self.group.pause(self.member, false);
    }

    /// Full, as its constructor made it; the rates stay, and it is not paused. Nobody may hold a ticket.
    pub fn reset(&self) {
        self.group.reset();
    }
}

/// All limits of a device that has one.
impl IntoIterator for &Limiter {
    type Item = Self;
    type IntoIter = std::iter::Once<Self>;

    fn into_iter(self) -> Self::IntoIter {
        std::iter::once(self)
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.group.leave(self.member);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !*self.passed.get_mut() {
            self.group.give_up(self.number);
        }
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket")
            .field("number", &self.number)
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
