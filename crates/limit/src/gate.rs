use crate::{Cost, Limiter, Ticket};
use std::time::Duration;

/// Where one request of a worker waits for its limits: a device's own, and perhaps that of a group. Nothing else of its queue
/// passes meanwhile, so requests stay in order. It asks for a place at one limit when it has passed those before, so that
/// it holds nothing that others could use. The limits are the same ones each time, or none any more.
#[derive(Debug)]
pub struct Gate<T>(Option<Waiting<T>>);

#[derive(Debug)]
struct Waiting<T> {
    request: T,
    cost: Cost,
    /// How many limits it has passed.
    passed: usize,
    /// Its place at the next one.
    ticket: Option<Ticket>,
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
    pub fn enter<'a>(
        &mut self,
        limits: impl IntoIterator<Item = &'a Limiter>,
        request: T,
        cost: Cost,
    ) -> Passage<T> {
        self.hold(limits, Waiting { request, cost, passed: 0, ticket: None })
    }

    /// Asks again for the request that waits; `None` if there is none.
    pub fn retry<'a>(&mut self, limits: impl IntoIterator<Item = &'a Limiter>) -> Option<Passage<T>> {
        self.0.take().map(|waiting| self.hold(limits, waiting))
    }

    /// Gives up the request that waits, and what it was to take.
    pub fn give_up<'a>(&mut self, limits: impl IntoIterator<Item = &'a Limiter>) -> Option<T> {
        let Waiting { request, cost, passed, ticket } = self.0.take()?;
        drop(ticket);
        limits.into_iter().take(passed).for_each(|limiter| limiter.refund(cost));
        Some(request)
    }

    fn hold<'a>(
        &mut self,
        limits: impl IntoIterator<Item = &'a Limiter>,
        mut waiting: Waiting<T>,
    ) -> Passage<T> {
        for limiter in limits.into_iter().skip(waiting.passed) {
            if waiting.ticket.is_none() {
                waiting.ticket = limiter.take(waiting.cost).err();
            }
            if let Some(Err(wait)) = waiting.ticket.as_ref().map(|ticket| limiter.ready(ticket)) {
                self.0 = Some(waiting);
                return Passage::After(wait);
            }
            waiting.ticket = None;
            waiting.passed += 1;
        }
        Passage::Now(waiting.request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LimitConfig, Rate};
    use drystone_bus::ManualClock;
    use std::sync::Arc;

    fn one(operations: u64, clock: &Arc<ManualClock>) -> Limiter {
        Limiter::new(LimitConfig { bandwidth: None, operations: Rate::new(operations) }, clock.clone())
    }

    #[test]
    fn one_waits_and_passes_or_gives_up() {
        let clock = Arc::new(ManualClock::default());
        let limits = [one(10, &clock)];
        let (mut gate, one) = (Gate::default(), Cost { bytes: 5 });
        assert_eq!(gate.retry(&limits), None);
        assert_eq!(gate.enter(&limits, 'a', one), Passage::Now('a'), "the burst");
        assert!(!gate.is_taken());
        let tenth = Duration::from_millis(100);
        assert_eq!(gate.enter(&limits, 'b', one), Passage::After(tenth));
        assert!(gate.is_taken());
        clock.advance(tenth / 2);
        assert_eq!(gate.retry(&limits), Some(Passage::After(tenth / 2)));
        clock.advance(tenth / 2);
        assert_eq!(gate.retry(&limits), Some(Passage::Now('b')));
        assert_eq!(gate.enter(&limits, 'c', one), Passage::After(tenth));
        assert_eq!((gate.give_up(&limits), gate.give_up(&limits)), (Some('c'), None));
        assert_eq!(
            gate.enter(&limits, 'd', one),
            Passage::After(tenth),
            "in the place of the one that gave up"
        );
    }

    #[test]
    fn limits_are_passed_one_after_the_other() {
        let clock = Arc::new(ManualClock::default());
        let limits = [one(10, &clock), one(4, &clock)];
        let (mut gate, cost) = (Gate::default(), Cost { bytes: 0 });
        let quarter = Duration::from_millis(250);
        assert_eq!(gate.enter(&limits, 'a', cost), Passage::Now('a'));
        assert_eq!(gate.enter(&limits, 'b', cost), Passage::After(quarter * 2 / 5), "the first");
        clock.advance(quarter * 2 / 5);
        assert_eq!(gate.retry(&limits), Some(Passage::After(quarter * 3 / 5)), "the second");
        assert_eq!(gate.give_up(&limits), Some('b'));
        // Both have it back.
        clock.advance(quarter * 3 / 5);
        assert_eq!(gate.enter(&limits, 'c', cost), Passage::Now('c'));
        clock.advance(quarter * 2 / 5);
        assert_eq!(gate.enter(&limits, 'd', cost), Passage::After(quarter * 3 / 5));
    }
}
