//! Start, reset, pause and resume.
use super::lane::{Inner, Run};
use super::quiesce::Wait;
use super::status::{DRIVER_OK, F_EVENT_IDX, F_INDIRECT_DESC, NEEDS_RESET};
use super::{Control, QueueRegisters, VirtioCore};
use crate::ring::Ring;
use crate::{Attempt, Fault};
use drystone_memory::Mem;
use drystone_state::{Component, ComponentError, PersistDyn};
use std::sync::atomic::Ordering;

/// A worker or its back end did not let go of its requests in time. It has been reported as
/// [`Event::Stuck`](crate::Event::Stuck) too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("lane {lane}: {attempt} not finished in time: its back end still holds requests")]
pub struct StuckError {
    /// The first such lane.
    pub lane: usize,
    /// What was tried.
    pub attempt: Attempt,
}

impl<M: Mem> VirtioCore<M> {
    /// Starts every lane, and has every ring looked at: a kick may have come early, or while lanes were held.
    pub(super) fn start(&self, control: &Control) {
        let wait = Wait::from_now(self.patience);
        for (lane, at) in self.lanes.iter().enumerate() {
            match self.lock_lane(lane, Attempt::Start, &wait) {
                Some(mut inner) => self.start_lane(lane, &mut inner, control),
                None => {
                    self.doom(lane);
                    self.shared.needs_reset();
                }
            }
            at.release();
        }
        self.ring_all();
    }

    /// Rings are attached where the driver enabled them, and checked against guest memory. A broken lane stays broken.
    pub(super) fn start_lane(&self, lane: usize, inner: &mut Inner<M>, control: &Control) {
        if inner.run == Run::Broken {
            return;
        }
        inner.run = Run::On;
        if let Err(fault) = self.try_start_lane(inner, control) {
            self.break_lane(lane, inner, &fault);
        }
    }

    fn try_start_lane(&self, inner: &mut Inner<M>, control: &Control) -> Result<(), Fault> {
        let features = control.driver_features;
        let (event_idx, indirect) = (features & F_EVENT_IDX != 0, features & F_INDIRECT_DESC != 0);
        inner.features = features;
        let guard = inner.memory.memory();
        for ring in &mut inner.rings {
            let registers = control.queues.get(usize::from(ring.index())).filter(|r| r.enabled);
            if let Some(registers) = registers.filter(|_| !ring.ready()) {
                ring.attach(&registers.placement(0, 0))?;
            }
            ring.prepare::<M>(&guard, event_idx, indirect)?;
        }
        drop(guard);
        inner.call(&self.shared, true, |worker, cx| worker.start(cx)).map(|_| ())
    }

    fn ring_all(&self) {
        for queue in self.lanes.iter().flat_map(|l| &l.info.queues) {
            self.doorbell.ring(*queue);
        }
    }

    fn hold_all(&self) {
        for lane in &self.lanes {
            lane.hold();
        }
    }

    /// Returns to the state in which the device was built, paused or not as before.
    ///
    /// Blocks until no worker and no back end can touch guest memory any more; only then does the status read 0.
    ///
    /// # Errors
    /// [`StuckError`] if a back end does not let go in time. The device is then dead: its status reads
    /// DEVICE_NEEDS_RESET and it serves nothing. Another reset tries again, without waiting, and succeeds once the back
    /// end has let go.
    pub fn reset(&self) -> Result<(), StuckError> {
        self.reset_locked(&mut self.control.lock())
    }

    pub(super) fn reset_locked(&self, control: &mut Control) -> Result<(), StuckError> {
        self.hold_all();
        let wait = Wait::from_now(self.patience);
        let mut stuck = None;
        for lane in 0..self.lanes.len() {
            if !self.reset_lane(lane, &wait) {
                stuck.get_or_insert(lane);
            }
        }
        if stuck.is_none() && self.with_device(|device| device.reset()).is_none() {
            stuck = Some(0);
        }
        let Control { driver_features, paused: _, queues } = control;
        *driver_features = 0;
        for registers in queues {
            *registers = QueueRegisters::new(registers.max_size);
        }
        self.shared.generation.store(0, Ordering::Release);
        // No lane runs: nobody can set NEEDS_RESET behind this.
        let status = if stuck.is_some() { NEEDS_RESET } else { 0 };
        self.shared.status.store(status, Ordering::SeqCst);
        stuck.map_or(Ok(()), |lane| Err(StuckError { lane, attempt: Attempt::Reset }))
    }

    fn reset_lane(&self, lane: usize, wait: &Wait) -> bool {
        let Some(mut inner) = self.lock_lane(lane, Attempt::Reset, wait) else {
            self.doom(lane);
            return false;
        };
        if !self.cancel(lane, &mut inner, Attempt::Reset, wait) {
            inner.run = Run::Broken;
            return false;
        }
        inner.rings.iter_mut().for_each(Ring::reset);
        inner.run = Run::Off;
        inner.features = 0;
        drop(inner);
        if let Some(at) = self.lanes.get(lane) {
            at.release();
        }
        true
    }

    /// Stops all lanes and finishes what is in flight. Lanes first stop taking work, all of them, and are then drained:
    /// the wait is that for the slowest request, not the sum.
    ///
    /// # Errors
    /// [`StuckError`] if a back end does not finish in time. The device then runs on, as a slow disk is better than a
    /// dead one, and may be asked again, which does not wait for that back end again.
    pub fn pause(&self) -> Result<(), StuckError> {
        let mut control = self.control.lock();
        if control.paused {
            return Ok(());
        }
        self.hold_all();
        let wait = Wait::from_now(self.patience);
        let stuck = (0..self.lanes.len()).find(|lane| !self.pause_lane(*lane, &wait));
        if let Some(lane) = stuck {
            self.go_on(&control);
            return Err(StuckError { lane, attempt: Attempt::Pause });
        }
        control.paused = true;
        Ok(())
    }

    fn pause_lane(&self, lane: usize, wait: &Wait) -> bool {
        let Some(mut inner) = self.lock_lane(lane, Attempt::Pause, wait) else { return false };
        match inner.run {
            Run::Off | Run::Paused => true,
            // Its requests die with it: memory must be still while paused.
            Run::Broken => self.cancel(lane, &mut inner, Attempt::Pause, wait),
            Run::On => {
                let home = self.drain(lane, &mut inner, Attempt::Pause, wait);
                if home && inner.run == Run::On {
                    inner.run = Run::Paused;
                }
                home
            }
        }
    }

    /// After a pause that did not succeed. A lane that cannot be had runs on by itself.
    fn go_on(&self, control: &Control) {
        let wait = Wait::from_now(std::time::Duration::ZERO);
        for (lane, at) in self.lanes.iter().enumerate() {
            let inner = self.lock_lane(lane, Attempt::Pause, &wait);
            if let Some(mut inner) = inner.filter(|i| matches!(i.run, Run::On | Run::Paused)) {
                // What sources said while the lane was held was not heard.
                self.start_lane(lane, &mut inner, control);
            }
            at.release();
        }
        self.ring_all();
    }

    /// Runs again after a pause. Every queue is looked at and every enabled one signalled once: the device may have been
    /// restored, and an interrupt lost with the process that saved it.
    pub fn resume(&self) {
        let mut control = self.control.lock();
        if !std::mem::replace(&mut control.paused, false) {
            return;
        }
        if self.status() & DRIVER_OK == 0 {
            self.lanes.iter().for_each(super::lane::Lane::release);
            return;
        }
        self.start(&control);
        for (queue, _) in (0..).zip(&control.queues).filter(|(_, r)| r.enabled) {
            self.shared.interrupts.queue(queue);
        }
    }
}

impl<M: Mem> Component for VirtioCore<M> {
    fn pause(&self) -> Result<(), ComponentError> {
        self.pause().map_err(ComponentError::new)
    }
    fn resume(&self) -> Result<(), ComponentError> {
        self.resume();
        Ok(())
    }
    fn reset(&self) -> Result<(), ComponentError> {
        self.reset().map_err(ComponentError::new)
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        self.savable.then_some(self as &dyn PersistDyn)
    }
}
