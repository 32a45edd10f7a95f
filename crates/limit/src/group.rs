mod waiting;

use crate::bucket::Bucket;
use crate::{Cost, LimitConfig, Limiter};
use drystone_bus::Clock;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use waiting::Waiting;

/// How far a member may be behind and still make up for it, in nanoseconds of the group: as much as the default burst, for
/// workers that are woken late. Others wait for no longer than that.
const SLACK: u128 = 50_000_000;

/// A limit that several devices share, each by a [`Limiter`] of its own. Clones are the same group.
///
/// Members that want more than there is get the same share of its time, however many queues each has and however large
/// its requests are (start-time fair queueing, Goyal, Vin and Cheng 1996): a request is due when what its member
/// had before is used up. What one member leaves, the others have.
#[derive(Clone)]
pub struct LimitGroup(Arc<Shared>);

struct Shared {
    clock: Arc<dyn Clock>,
    limited: AtomicBool,
    inner: Mutex<Inner>,
}

pub(crate) struct Inner {
    pub(crate) bandwidth: Bucket,
    pub(crate) operations: Bucket,
    /// Up to when time has been granted.
    at: Duration,
    members: BTreeMap<u64, Member>,
    waiting: Waiting,
    /// When the request that passed last was due, by the group's own clock: nanoseconds of its limit that were handed out.
    due: u128,
    /// For names of members and requests.
    next: u64,
}

struct Member {
    /// When what it has had is used up.
    used_up: u128,
    paused: bool,
}

impl LimitGroup {
    /// A group with a full burst and no members.
    pub fn new(config: LimitConfig, clock: Arc<dyn Clock>) -> Self {
        let inner = Inner {
            bandwidth: Bucket::new(config.bandwidth),
            operations: Bucket::new(config.operations),
            at: clock.monotonic(),
            members: BTreeMap::new(),
            waiting: Waiting::default(),
            due: 0,
            next: 0,
        };
        let limited = AtomicBool::new(is_limit(&config));
        Self(Arc::new(Shared { clock, limited, inner: Mutex::new(inner) }))
    }

    /// A new member, until it is dropped.
    pub fn join(&self) -> Limiter {
        let mut inner = self.now();
        let member = inner.name();
        let used_up = inner.due;
        inner.members.insert(member, Member { used_up, paused: false });
        Limiter::of(self.clone(), member)
    }

    /// Other limits from now on. Whoever waits should ask again at once.
    pub fn configure(&self, config: LimitConfig) {
        let mut inner = self.now();
        inner.bandwidth.set_rate(config.bandwidth);
        inner.operations.set_rate(config.operations);
        self.0.limited.store(is_limit(&config), Ordering::Relaxed);
    }

    /// The limits that hold now.
    pub fn config(&self) -> LimitConfig {
        let inner = self.lock();
        LimitConfig { bandwidth: inner.bandwidth.rate(), operations: inner.operations.rate() }
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.0.limited.load(Ordering::Relaxed)
    }

    pub(crate) fn leave(&self, member: u64) {
        self.now().members.remove(&member);
    }

    /// A request of a member: the number of its place if it must wait.
    pub(crate) fn ask(&self, member: u64, cost: Cost) -> Option<u64> {
        let mut inner = self.now();
        let number = inner.ask(member, cost);
        (!inner.wait(number).is_zero()).then_some(number)
    }

    /// How long the request at a place has to wait; zero if it has passed.
    pub(crate) fn wait(&self, number: u64) -> Duration {
        self.now().wait(number)
    }

    /// The request at a place will not pass.
    pub(crate) fn give_up(&self, number: u64) {
        let mut inner = self.now();
        if let Some(cost) = inner.waiting.remove(number) {
            inner.bandwidth.withdraw(cost.bytes);
            inner.operations.withdraw(1);
        }
    }

    pub(crate) fn refund(&self, cost: Cost) {
        let mut inner = self.now();
        inner.bandwidth.refund(cost.bytes);
        inner.operations.refund(1);
    }

    pub(crate) fn pause(&self, member: u64, paused: bool) {
        if let Some(member) = self.now().members.get_mut(&member) {
            member.paused = paused;
        }
    }

    /// Full; the rates stay, and no member is paused.
    pub(crate) fn reset(&self) {
        let mut inner = self.now();
        inner.bandwidth.set_saved(u128::MAX);
        inner.operations.set_saved(u128::MAX);
        inner.members.values_mut().for_each(|member| member.paused = false);
    }

    /// Locked, with all time granted up to now. While every member is paused none passes.
    pub(crate) fn now(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.lock();
        let now = self.0.clock.monotonic();
        let elapsed = now.saturating_sub(inner.at);
        if inner.members.is_empty() || inner.members.values().any(|member| !member.paused) {
            inner.bandwidth.advance(elapsed);
            inner.operations.advance(elapsed);
        }
        inner.at = inner.at.max(now);
        inner
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn name(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn ask(&mut self, member: u64, cost: Cost) -> u64 {
        self.bandwidth.ask(cost.bytes);
        self.operations.ask(1);
        let (number, takes, due) = (self.name(), self.takes(cost), self.due);
        let mut from = due;
        if let Some(member) = self.members.get_mut(&member) {
            from = due.saturating_sub(SLACK).max(member.used_up);
            member.used_up = from.saturating_add(takes);
        }
        self.waiting.add(from, number, cost);
        number
    }

    /// How many nanoseconds of the limit a request takes.
    fn takes(&self, cost: Cost) -> u128 {
        self.bandwidth.takes(cost.bytes).max(self.operations.takes(1))
    }

    /// How long the request has to wait. If it need not it has passed, and no longer waits.
    fn wait(&mut self, number: u64) -> Duration {
        let Some(place) = self.waiting.place(number) else { return Duration::ZERO };
        let bandwidth = self.bandwidth.wait(place.behind.bytes);
        let wait = bandwidth.max(self.operations.wait(place.behind.operations));
        if wait.is_zero() {
            self.waiting.remove(number);
            self.due = self.due.max(place.due);
        }
        wait
    }
}

fn is_limit(config: &LimitConfig) -> bool {
    config.bandwidth.is_some() || config.operations.is_some()
}

#[cfg(test)]
mod tests;
