use super::lane::Run;
use super::quiesce::Wait;
use super::status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, F_VERSION_1, FAILED, FEATURES_OK, NEEDS_RESET};
use super::{Control, QueueRegisters, VirtioCore};
use crate::Attempt;
use crate::ring::{Placement, Ring};
use drystone_memory::Mem;
use drystone_state::{Blob, Persist, RestoreError, SaveError, Schema};
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;

/// The saved state of a [`VirtioCore`], with that of its device in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoreState {
    /// The device type.
    pub device_type: u32,
    /// The status register.
    pub status: u8,
    /// The features that the driver has written.
    pub driver_features: u64,
    /// The generation of the configuration space.
    pub config_generation: u32,
    /// All queues, in order.
    pub queues: Vec<QueueState>,
    /// The device's own state.
    pub device: Blob,
}

/// The saved state of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueState {
    /// How many entries it has.
    pub size: u16,
    /// The driver uses it.
    pub enabled: bool,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the available ring.
    pub available: u64,
    /// Guest-physical address of the used ring.
    pub used: u64,
    /// How many requests were taken, modulo 2^16.
    pub next_avail: u16,
    /// How many were used, modulo 2^16.
    pub next_used: u16,
    /// The heads of those that were taken and are neither used nor in flight: they are to be done before all others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub returned: Vec<u16>,
}

impl Schema for CoreState {
    const KIND: &'static str = "virtio";
    const VERSION: u32 = 1;
}

impl QueueState {
    /// Requests that were taken, and neither used nor put back.
    fn in_flight(&self) -> usize {
        let taken = usize::from(self.next_avail.wrapping_sub(self.next_used));
        taken.abs_diff(self.returned.len())
    }

    /// Whether those that were put back are requests of this queue, each there once.
    fn returned_once(&self) -> bool {
        let mut heads = self.returned.clone();
        heads.sort_unstable();
        heads.dedup();
        heads.len() == self.returned.len() && heads.last().is_none_or(|head| *head < self.size)
    }
}

fn invalid(cause: impl Into<String>) -> RestoreError {
    RestoreError::Invalid { kind: CoreState::KIND, cause: cause.into() }
}

impl<M: Mem> VirtioCore<M> {
    fn queue_state(&self, queue: u16, registers: &QueueRegisters) -> Option<QueueState> {
        let lane = *self.route.get(usize::from(queue))?;
        let inner = self.lock_lane(lane, Attempt::Pause, &Wait::from_now(self.patience))?;
        let ring = inner.rings.iter().find(|r| r.index() == queue)?;
        let QueueRegisters { max_size: _, size, enabled, resetting: _, descriptors, available, used } =
            *registers;
        // A dead device's rings are lost: only a reset helps, here as there.
        let dead = self.status() & NEEDS_RESET != 0;
        let (state, returned) = (ring.state(), ring.returned());
        let (next_avail, next_used, returned) =
            if dead { (0, 0, Vec::new()) } else { (state.next_avail, state.next_used, returned) };
        Some(QueueState { size, enabled, descriptors, available, used, next_avail, next_used, returned })
    }

    /// Everything that can be said about a state without touching anything.
    fn check(&self, state: &CoreState) -> Result<(), RestoreError> {
        let CoreState { device_type, status, driver_features, config_generation: _, queues, device: _ } =
            state;
        if *device_type != self.description.device_type {
            let own = self.description.device_type;
            return Err(invalid(format!("of a device of type {device_type}, this one is of type {own}")));
        }
        if queues.len() != self.route.len() {
            return Err(invalid(format!("{} queues, there are {}", queues.len(), self.route.len())));
        }
        if !possible(*status) {
            return Err(invalid(format!("status {status:#x}")));
        }
        let agreed = status & FEATURES_OK != 0;
        if agreed && (driver_features & !self.features != 0 || driver_features & F_VERSION_1 == 0) {
            let offered = self.features;
            return Err(invalid(format!("features {driver_features:#x}, {offered:#x} are offered")));
        }
        let dead = status & NEEDS_RESET != 0;
        for (queue, (q, max)) in queues.iter().zip(&self.description.queue_sizes).enumerate() {
            if q.enabled && !agreed {
                return Err(invalid(format!("queue {queue} is enabled before features are agreed on")));
            }
            let attached = q.enabled && status & DRIVER_OK != 0;
            if !dead && (q.in_flight() != 0 || (!attached && q.next_avail != 0)) {
                return Err(invalid(format!("queue {queue} has requests in flight")));
            }
            if !q.returned_once() || (!q.returned.is_empty() && (dead || !attached)) {
                return Err(invalid(format!("queue {queue} has requests that cannot be")));
            }
            if attached && !dead {
                self.attach(queue, q, *max)?;
            }
        }
        Ok(())
    }

    /// A ring where the state says that it is, if it can be there.
    fn attach(&self, queue: usize, state: &QueueState, max_size: u16) -> Result<Ring, RestoreError> {
        let bad = |cause: &dyn std::fmt::Display| invalid(format!("queue {queue}: {cause}"));
        let QueueState {
            size,
            enabled: _,
            descriptors,
            available,
            used,
            next_avail,
            next_used,
            ref returned,
        } = *state;
        let index = u16::try_from(queue).map_err(|e| bad(&e))?;
        let mut ring = Ring::new(index, max_size).map_err(|e| bad(&e))?;
        let at = Placement { size, descriptors, available, used, next_avail, next_used };
        ring.attach(&at).map_err(|e| bad(&e))?;
        ring.set_returned(returned);
        Ok(ring)
    }

    /// Puts a checked state in place.
    fn assume(&self, state: &CoreState, control: &mut Control) -> Result<(), RestoreError> {
        let dead = state.status & NEEDS_RESET != 0;
        for (lane, at) in self.lanes.iter().enumerate() {
            let inner = self.lock_lane(lane, Attempt::Start, &Wait::from_now(self.patience));
            let mut inner = inner.ok_or_else(|| invalid(format!("lane {lane} is busy")))?;
            if dead {
                inner.run = Run::Broken; // until the driver resets it
            } else if state.status & DRIVER_OK != 0 {
                inner.run = Run::Paused;
                for ring in &mut inner.rings {
                    let index = usize::from(ring.index());
                    let q = state.queues.get(index).filter(|q| q.enabled);
                    if let (Some(q), Some(max)) = (q, self.description.queue_sizes.get(index)) {
                        *ring = self.attach(index, q, *max)?;
                    }
                }
            }
            at.hold();
        }
        for (registers, q) in control.queues.iter_mut().zip(&state.queues) {
            let QueueState { size, enabled, descriptors, available, used, .. } = *q;
            let (max_size, resetting) = (registers.max_size, false);
            *registers = QueueRegisters { max_size, size, enabled, resetting, descriptors, available, used };
        }
        control.driver_features = state.driver_features;
        control.paused = true;
        self.shared.generation.store(state.config_generation, Ordering::Release);
        self.shared.status.store(state.status, Ordering::SeqCst);
        Ok(())
    }
}

/// Can a status register read so?
fn possible(status: u8) -> bool {
    let order = [(DRIVER, ACKNOWLEDGE), (FEATURES_OK, DRIVER), (DRIVER_OK, FEATURES_OK)];
    let known = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | NEEDS_RESET | FAILED;
    status & !known == 0 && order.iter().all(|(bit, needs)| status & bit == 0 || status & needs != 0)
}

impl<M: Mem> Persist for VirtioCore<M> {
    type State = CoreState;

    fn save(&self) -> Result<CoreState, SaveError> {
        let cannot = |what: &str| SaveError::Component(format!("virtio device: {what}"));
        let control = self.control.lock();
        if !control.paused {
            return Err(cannot("it is running"));
        }
        let queues = (0..).zip(&control.queues).map(|(n, registers)| self.queue_state(n, registers));
        let queues = queues.collect::<Option<_>>().ok_or_else(|| cannot("a lane is busy"))?;
        let device = self.with_device(|device| device.persist().map(|p| p.save_blob()));
        let device = device.flatten().ok_or_else(|| cannot("it has no state to save"))??;
        Ok(CoreState {
            device_type: self.description.device_type,
            status: self.status(),
            driver_features: control.driver_features,
            config_generation: self.config_generation(),
            queues,
            device,
        })
    }

    /// The core comes out paused.
    fn restore(&self, state: CoreState) -> Result<(), RestoreError> {
        let mut control = self.control.lock();
        if self.status() != 0 {
            return Err(invalid("a driver has used this device already"));
        }
        self.check(&state)?;
        let restored = self.with_device(|device| {
            if state.status & FEATURES_OK != 0 && !device.accept(state.driver_features) {
                return Err(invalid(format!("features {:#x} are not accepted", state.driver_features)));
            }
            let device = device.persist().ok_or_else(|| invalid("this device cannot be restored"))?;
            device.restore_blob(&state.device)
        });
        restored.ok_or_else(|| invalid("the device is busy"))??;
        self.assume(&state, &mut control)
    }
}
