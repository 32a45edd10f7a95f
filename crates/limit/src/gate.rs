use crate::{Cost, Limiter, Ticket};
use std::time::Duration;

/// Where one request of a worker waits for its limit. Nothing else of its queue passes meanwhile, so requests stay in order.
#[derive(Debug)]
pub struct Gate<T>(Option<Waiting<T>>);

#[derive(Debug)]
struct Waiting<T> {
    request: T,
    ticket: Ticket,
}

/// What became of a request at a [`Gate`].
#[derive(Debug, PartialEq, Eq)]
pub enum Passage<T> {
    /// It passes.
    Now(T),
    /// It waits at the gate, which is to be asked again after that time.
    After(Duration),
}

impl<T> Default for Gate<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Gate<T> {
    /// Whether a request waits.
    pub fn is_taken(&self) -> bool {
        self.0.is_some()
    }

    /// Lets `request` of `cost` pass, or has it wait. The gate must not be taken: who waits there already is dropped.
    pub fn enter(&mut self, limiter: &Limiter, request: T, cost: Cost) -> Passage<T> {
        match limiter.take(cost) {
            Ok(()) => Passage::Now(request),
            Err(ticket) => self.hold(limiter, Waiting { request, ticket }),
        }
    }

    /// Asks again for the request that waits; `None` if there is none.
    pub fn retry(&mut self, limiter: &Limiter) -> Option<Passage<T>> {
        self.0.take().map(|waiting| self.hold(limiter, waiting))
    }

    /// Gives up the request that waits, and what it was to take.
    pub fn give_up(&mut self, limiter: &Limiter) -> Option<T> {
        let Waiting { request, ticket } = self.0.take()?;
        limiter.cancel(ticket);
        Some(request)
    }

    fn hold(&mut self, limiter: &Limiter, waiting: Waiting<T>) -> Passage<T> {
        match limiter.ready(&waiting.ticket) {
            Ok(()) => Passage::Now(waiting.request),
            Err(wait) => {
                self.0 = Some(waiting);
                Passage::After(wait)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LimitConfig, Rate};
    use drystone_bus::ManualClock;
    use std::sync::Arc;

    #[test]
    fn one_waits_and_passes_or_gives_up() {
        let clock = Arc::new(ManualClock::default());
        let limiter = Limiter::new(LimitConfig { bandwidth: None, operations: Rate::new(10) }, clock.clone());
        let (mut gate, one) = (Gate::default(), Cost { bytes: 5 });
        assert_eq!(gate.retry(&limiter), None);
        assert_eq!(gate.enter(&limiter, 'a', one), Passage::Now('a'), "the burst");
        assert!(!gate.is_taken());
        let tenth = Duration::from_millis(100);
        assert_eq!(gate.enter(&limiter, 'b', one), Passage::After(tenth));
        assert!(gate.is_taken());
        clock.advance(tenth / 2);
        assert_eq!(gate.retry(&limiter), Some(Passage::After(tenth / 2)));
        clock.advance(tenth / 2);
        assert_eq!(gate.retry(&limiter), Some(Passage::Now('b')));
        assert_eq!(gate.enter(&limiter, 'c', one), Passage::After(tenth));
        assert_eq!((gate.give_up(&limiter), gate.give_up(&limiter)), (Some('c'), None));
        assert_eq!(
            gate.enter(&limiter, 'd', one),
            Passage::After(tenth),
            "in the place of the one that gave up"
        );
    }
}
