//! The registers of queues, as every transport has them (4.1.4.3, 4.2.2). They are copied into a lane when the driver is
//! ready, so an access to them never waits for a batch.
use super::lane::{Inner, Run};
use super::quiesce::Wait;
use super::status::{DRIVER_OK, F_RING_RESET, FEATURES_OK, NEEDS_RESET};
use super::{Control, VirtioCore};
use crate::Attempt;
use crate::ring::{Placement, Ring};
use drystone_memory::Mem;

/// Where the driver wants a queue. Whether it can be there is looked at when the queue starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueRegisters {
    /// How many entries it may have at most.
    pub max_size: u16,
    /// How many it has.
    pub size: u16,
    /// The driver uses it.
    pub enabled: bool,
    /// Its reset was asked for and could not be finished.
    pub resetting: bool,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the available ring (driver area).
    pub available: u64,
    /// Guest-physical address of the used ring (device area).
    pub used: u64,
}

impl QueueRegisters {
    /// As after a reset.
    pub(super) fn new(max_size: u16) -> Self {
        let (enabled, resetting) = (false, false);
        Self { max_size, size: max_size, enabled, resetting, descriptors: 0, available: 0, used: 0 }
    }

    pub(super) fn placement(&self, next_avail: u16, next_used: u16) -> Placement {
        let Self { size, descriptors, available, used, .. } = *self;
        Placement { size, descriptors, available, used, next_avail, next_used }
    }
}

impl<M: Mem> VirtioCore<M> {
    /// The registers of `queue`; `None` if there is no such queue.
    pub fn queue(&self, queue: u16) -> Option<QueueRegisters> {
        self.control.lock().queues.get(usize::from(queue)).copied()
    }

    /// The driver sets a queue up: `change` may set the size and the three addresses. Ignored when there is no such
    /// queue, when it is enabled, and outside of set-up: after FEATURES_OK, and after DRIVER_OK only if the driver may
    /// reset queues.
    pub fn set_queue(&self, queue: u16, change: impl FnOnce(&mut QueueRegisters)) {
        let mut control = self.control.lock();
        if !self.may_set_up(&control) {
            return;
        }
        if let Some(registers) = control.queues.get_mut(usize::from(queue)).filter(|r| !r.enabled) {
            let mut new = *registers;
            change(&mut new);
            let QueueRegisters { max_size: _, size, enabled: _, resetting: _, descriptors, available, used } =
                new;
            *registers = QueueRegisters { size, descriptors, available, used, ..*registers };
        }
    }

    /// The driver enables a queue that it has set up; under the same conditions as [`set_queue`](Self::set_queue).
    pub fn enable_queue(&self, queue: u16) {
        let mut control = self.control.lock();
        if !self.may_set_up(&control) {
            return;
        }
        let Some(registers) = control.queues.get_mut(usize::from(queue)).filter(|r| !r.enabled) else {
            return;
        };
        registers.enabled = true;
        if self.status() & DRIVER_OK != 0 && !control.paused {
            self.restart_lane_of(queue, &mut control, |_, _| true);
        }
    }

    /// The driver stops using a queue (4.2.2.2, QueueReady) or resets it (2.6.1): what is in flight on its lane is
    /// finished, and the queue is as it was before it was set up. Returns when that is done, or when patience is at its
    /// end: the queue then stays enabled, and the device needs a reset.
    pub fn reset_queue(&self, queue: u16) {
        let mut control = self.control.lock();
        let Some(registers) = control.queues.get_mut(usize::from(queue)) else { return };
        registers.resetting = registers.enabled;
        if registers.enabled && self.status() & DRIVER_OK != 0 {
            self.restart_lane_of(queue, &mut control, |lane, inner| self.detach(lane, inner, queue));
        } else {
            *registers = QueueRegisters::new(registers.max_size);
        }
    }

    /// Finishes what is in flight and forgets the ring.
    fn detach(&self, lane: usize, inner: &mut Inner<M>, queue: u16) -> bool {
        let wait = Wait::from_now(self.patience);
        let home = match inner.run {
            Run::On => self.drain(lane, inner, Attempt::QueueReset, &wait),
            Run::Broken => self.cancel(lane, inner, Attempt::QueueReset, &wait),
            Run::Off | Run::Paused => true,
        };
        if home {
            inner.rings.iter_mut().filter(|r| r.index() == queue).for_each(Ring::reset);
        }
        home
    }

    /// Stops the lane of `queue` for a change of its rings, and starts it again. If the change does not succeed, or the
    /// lane is not to be had, the device needs a reset.
    fn restart_lane_of(
        &self,
        queue: u16,
        control: &mut Control,
        change: impl FnOnce(usize, &mut Inner<M>) -> bool,
    ) {
        let Some((&lane, at)) =
            self.route.get(usize::from(queue)).and_then(|l| Some((l, self.lanes.get(*l)?)))
        else {
            return;
        };
        at.hold();
        let wait = Wait::from_now(self.patience);
        let Some(mut inner) = self.lock_lane(lane, Attempt::QueueReset, &wait) else {
            self.doom(lane);
            self.shared.needs_reset();
            return;
        };
        if !change(lane, &mut inner) {
            inner.run = Run::Broken;
            self.shared.needs_reset();
            return;
        }
        if let Some(registers) = control.queues.get_mut(usize::from(queue)).filter(|r| r.resetting) {
            *registers = QueueRegisters::new(registers.max_size);
        }
        if inner.run == Run::On {
            self.start_lane(lane, &mut inner, control);
        }
        drop(inner);
        at.release();
        for queue in &at.info.queues {
            self.doorbell.ring(*queue);
        }
    }

    /// Has the driver agreed to VIRTIO_F_RING_RESET?
    pub fn may_reset_queues(&self) -> bool {
        self.status() & FEATURES_OK != 0 && self.driver_features() & F_RING_RESET != 0
    }

    fn may_set_up(&self, control: &Control) -> bool {
        let status = self.status();
        let running = status & DRIVER_OK != 0;
        status & FEATURES_OK != 0
            && status & NEEDS_RESET == 0
            && (!running || control.driver_features & F_RING_RESET != 0)
    }
}
