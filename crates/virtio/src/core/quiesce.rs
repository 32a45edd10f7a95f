//! Getting at a lane, and getting its requests back, with a deadline. No back end and no worker of one device can hold up
//! a vCPU or the machine for longer than the patience the VMM has.
use super::VirtioCore;
use super::lane::{Inner, Locked, Run, contain};
use crate::{Attempt, Event, Source};
use drystone_memory::Mem;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// How long to sleep at most when the sources say nothing: a back end may not signal what it drops.
const NAP: Duration = Duration::from_millis(2);
/// How long to sleep when a source is ready, and yet nothing came back.
const BACK_OFF: Duration = Duration::from_micros(200);

/// A deadline.
pub(super) struct Wait {
    until: Instant,
}

impl Wait {
    pub fn from_now(patience: Duration) -> Self {
        let now = Instant::now();
        Self { until: now.checked_add(patience).unwrap_or(now) }
    }

    fn none() -> Self {
        Self::from_now(Duration::ZERO)
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

/// The sources of a worker, watched for the time that the core waits for it.
struct Watch(Option<Epoll>);

impl Watch {
    /// A source that cannot be watched is made up for by the nap.
    fn new(sources: &[Source]) -> Self {
        let epoll = Epoll::new().ok();
        for source in sources {
            let mut set = EventSet::empty();
            set.set(EventSet::IN, source.readable);
            set.set(EventSet::OUT, source.writable);
            let event = EpollEvent::new(set, 0);
            let _ = epoll.as_ref().map(|e| e.ctl(ControlOperation::Add, source.fd.as_raw_fd(), event));
        }
        Self(epoll)
    }

    /// Waits until a source may be ready. False when there is no time left.
    fn wait(&self, wait: &Wait, progress: bool) -> bool {
        let left = wait.left();
        if left.is_zero() {
            return false;
        }
        if !progress {
            std::thread::sleep(left.min(BACK_OFF));
        }
        let nap = left.min(NAP);
        let mut events = [EpollEvent::default()];
        // Rounded up, so that the last nap is not a spin.
        let millis = i32::try_from(nap.as_micros().div_ceil(1000)).unwrap_or(1);
        if self.0.as_ref().is_none_or(|e| e.wait(millis, &mut events).is_err()) {
            std::thread::sleep(nap);
        }
        true
    }
}

impl<M: Mem> VirtioCore<M> {
    /// Takes a lane's lock. `None`, reported once, if it is not to be had in time; until it is, nobody waits for it again.
    pub(super) fn lock_lane(&self, lane: usize, attempt: Attempt, wait: &Wait) -> Option<Locked<'_, M>> {
        let at = self.lanes.get(lane)?;
        let stuck = at.stuck.load(Ordering::Acquire);
        let locked = if stuck { at.inner.try_lock() } else { at.inner.try_lock_until(wait.until) };
        let Some(mut inner) = locked else {
            if !at.stuck.swap(true, Ordering::AcqRel) {
                self.shared.event(&Event::Stuck { lane, attempt, in_flight: 0 });
            }
            return None;
        };
        at.stuck.store(false, Ordering::Release);
        if at.doomed.swap(false, Ordering::AcqRel) {
            inner.run = Run::Broken;
        }
        Some(inner)
    }

    /// Has the worker complete what is in flight. False, reported once, if it does not end in time. A worker that fails
    /// at it is stopped, and its requests are dropped.
    pub(super) fn drain(&self, lane: usize, inner: &mut Inner<M>, attempt: Attempt, wait: &Wait) -> bool {
        let mut watch = None;
        loop {
            let before = inner.in_flight();
            if let Err(fault) = inner.call(&self.shared, false, |worker, cx| worker.drain(cx)) {
                self.break_lane(lane, inner, &fault);
                return self.cancel(lane, inner, attempt, wait);
            }
            let left = inner.in_flight();
            if left == 0 {
                inner.clinging = false;
                return true;
            }
            if !self.wait_for(lane, inner, wait, &mut watch, left < before) {
                return self.report_clinging(lane, inner, attempt);
            }
        }
    }

    /// Has the worker drop what is in flight. False, reported once, if it does not end in time: something may still touch
    /// guest memory.
    pub(super) fn cancel(&self, lane: usize, inner: &mut Inner<M>, attempt: Attempt, wait: &Wait) -> bool {
        let (mut watch, mut sound) = (None, true);
        loop {
            if sound && let Err(fault) = contain(|| inner.actor.worker().cancel()) {
                // Its requests may have been dropped all the same.
                self.break_lane(lane, inner, &fault);
                sound = false;
            }
            if inner.is_home() {
                inner.clinging = false;
                return true;
            }
            if !self.wait_for(lane, inner, wait, &mut watch, false) {
                return self.report_clinging(lane, inner, attempt);
            }
        }
    }

    fn wait_for(
        &self,
        lane: usize,
        inner: &Inner<M>,
        wait: &Wait,
        watch: &mut Option<Watch>,
        progress: bool,
    ) -> bool {
        let sources = self.lanes.get(lane).map(|l| l.info.sources.as_slice()).unwrap_or_default();
        let watch = watch.get_or_insert_with(|| Watch::new(sources));
        // It was waited for in vain before: look, and do not wait.
        let wait = if inner.clinging { &Wait::none() } else { wait };
        watch.wait(wait, progress)
    }

    fn report_clinging(&self, lane: usize, inner: &mut Inner<M>, attempt: Attempt) -> bool {
        if !std::mem::replace(&mut inner.clinging, true) {
            let in_flight = inner.in_flight();
            self.shared.event(&Event::Stuck { lane, attempt, in_flight });
        }
        false
    }

    /// A lane is given up that could not even be entered: it is broken as soon as somebody can.
    pub(super) fn doom(&self, lane: usize) {
        if let Some(at) = self.lanes.get(lane) {
            at.doomed.store(true, Ordering::Release);
        }
    }
}
