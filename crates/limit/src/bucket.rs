use crate::Rate;
use std::time::Duration;

/// A token in the unit of the arithmetic: what a rate of 1 a second gives in one second of nanoseconds.
pub(crate) const TOKEN: u128 = 1_000_000_000;

/// Nanoseconds of a second.
const NANOS: u128 = 1_000_000_000;

/// One token bucket, as two counters that only grow: what requests have asked for, and what time has granted.
///
/// A request's position is `asked` less what those after it have asked for; it may pass once `granted` is there. So requests pass
/// in order, one that is larger than the burst waits for its full time and then passes, and a change of the rate moves
/// every waiting request. `granted` never runs ahead of `asked` by more than the burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bucket {
    rate: Option<Rate>,
    asked: u128,
    granted: u128,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(rate: Option<Rate>) -> Self {
        let mut bucket = Self { rate, asked: 0, granted: 0 };
        bucket.set_saved(u128::MAX);
        bucket
    }

    pub(crate) fn rate(&self) -> Option<Rate> {
        self.rate
    }

    /// How far `granted` may be ahead of `asked`.
    fn burst(&self) -> u128 {
        self.rate.map_or(0, |r| u128::from(r.burst()) * TOKEN)
    }

    /// What is saved up; 0 while requests wait.
    pub(crate) fn saved(&self) -> u128 {
        self.granted.saturating_sub(self.asked)
    }

    /// Saves up `amount`, at most the burst. Requests that wait may pass.
    pub(crate) fn set_saved(&mut self, amount: u128) {
        self.granted = self.asked.saturating_add(amount.min(self.burst()));
    }

    /// Time passes.
    pub(crate) fn advance(&mut self, elapsed: Duration) {
        if let Some(rate) = self.rate {
            self.grant(elapsed.as_nanos().saturating_mul(rate.per_second.get().into()));
        }
    }

    fn grant(&mut self, amount: u128) {
        let full = self.asked.saturating_add(self.burst());
        self.granted = self.granted.saturating_add(amount).min(full);
    }

    /// Adds a request.
    pub(crate) fn ask(&mut self, tokens: u64) {
        self.asked = self.asked.saturating_add(u128::from(tokens) * TOKEN);
    }

    /// Takes a request back that waits: those behind it move up.
    pub(crate) fn withdraw(&mut self, tokens: u64) {
        self.asked = self.asked.saturating_sub(u128::from(tokens) * TOKEN);
        self.grant(0);
    }

    /// Gives back what was asked for.
    pub(crate) fn refund(&mut self, tokens: u64) {
        // As if time had granted it: those that wait behind are served sooner.
        self.grant(u128::from(tokens) * TOKEN);
    }

    /// How many nanoseconds it takes to grant so much; 0 without a rate.
    pub(crate) fn takes(&self, tokens: u64) -> u128 {
        self.rate.map_or(0, |rate| (u128::from(tokens) * TOKEN).div_ceil(rate.per_second.get().into()))
    }

    /// How long until a request may pass after which others have asked for `behind` tokens: zero if now.
    pub(crate) fn wait(&self, behind: u128) -> Duration {
        let Some(rate) = self.rate else { return Duration::ZERO };
        let position = self.asked.saturating_sub(behind.saturating_mul(TOKEN));
        let nanos = position.saturating_sub(self.granted).div_ceil(rate.per_second.get().into());
        // Many requests of 2^64 bytes at one a second wait for longer than the universe has been there.
        let seconds = u64::try_from(nanos / NANOS).unwrap_or(u64::MAX);
        Duration::new(seconds, u32::try_from(nanos % NANOS).unwrap_or(0))
    }

    /// Another rate from now on. What was saved up stays, as far as the new burst holds it; a bucket that had no rate
    /// is full.
    pub(crate) fn set_rate(&mut self, rate: Option<Rate>) {
        let fresh = self.rate.is_none() || rate.is_none();
        self.rate = rate;
        if fresh {
            self.set_saved(u128::MAX);
        } else {
            self.grant(0);
        }
    }
}
