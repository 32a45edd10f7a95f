//! The transport-neutral half of every virtio device.
//!
//! A *lane* is a worker with its rings, behind one lock. Lane 0 is the device itself. Lanes exist from construction to
//! the end and never move, so event loops register once. Two lanes share no lock on the data path; registers and status
//! never meet it.
//!
//! Lock order: `control`, then lanes in ascending order, one at a time. The data path takes one lane and nothing else.
//! `Interrupts`, `Doorbell` and `Observer` are leaves. A worker never sees a lock.
mod build;
mod config;
mod lane;
mod life;
mod observe;
mod queues;
mod quiesce;
mod shared;
mod state;
pub(crate) mod status;

pub use build::{BuildError, Host};
pub use life::StuckError;
pub use queues::QueueRegisters;
pub use state::{CoreState, QueueState};

pub(crate) use shared::Shared;

use crate::{Cx, Description, Doorbell, Event, Fault, Source, Worker};
use drystone_memory::Mem;
use lane::{Inner, Lane, Run};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Batches that a lane may serve before its thread looks at its other lanes.
const ROUNDS: u32 = 4;

/// What the caller of [`VirtioCore::kick`] and [`VirtioCore::ready`] does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// Wait for the next event.
    Idle,
    /// The lane has had its share and has more to do: come back after others had their turn.
    Again,
}

/// What an event loop needs to know of a lane. Fixed for the core's life.
#[derive(Clone)]
pub struct LaneInfo {
    /// The queues that it serves.
    pub queues: Vec<u16>,
    /// The descriptors to watch for it.
    pub sources: Vec<Source>,
    /// Its rings run elsewhere: its doorbells are not to be listened to.
    pub offloaded: bool,
}

/// The half of a virtio device that is the same for every device and every transport: status, features, queues, lanes,
/// reset, pause, save.
///
/// All methods take `&self` and may be called from any thread.
pub struct VirtioCore<M: Mem> {
    description: Description,
    /// What is offered: the device's features and the core's.
    features: u64,
    savable: bool,
    shared: Shared,
    doorbell: Arc<dyn Doorbell>,
    patience: Duration,
    control: Mutex<Control>,
    lanes: Vec<Lane<M>>,
    /// By queue: its lane.
    route: Vec<usize>,
}

/// What transports and the life cycle change.
struct Control {
    driver_features: u64,
    paused: bool,
    queues: Vec<QueueRegisters>,
}

impl<M: Mem> VirtioCore<M> {
    // The data path: any thread, one lane's lock, nothing else.

    /// The driver notified `queue`. Called by whoever runs its lane.
    pub fn kick(&self, queue: u16) -> Next {
        let Some(&lane) = self.route.get(usize::from(queue)) else { return Next::Idle };
        self.enter(lane, |w, cx| if cx.is_ready(queue) { w.on_kick(queue, cx) } else { Ok(()) })
    }

    /// A source of `lane` fired. Called by whoever runs the lane.
    pub fn ready(&self, lane: usize, token: u32) -> Next {
        self.enter(lane, |w, cx| w.on_ready(token, cx))
    }

    /// For transports without an event for the purpose: has `queue` looked at by its own lane's loop.
    pub fn notify(&self, queue: u16) {
        if usize::from(queue) < self.route.len() {
            self.doorbell.ring(queue);
        }
    }

    fn enter(
        &self,
        lane: usize,
        mut call: impl FnMut(&mut dyn Worker<M>, &mut Cx<'_, M>) -> Result<(), Fault>,
    ) -> Next {
        let Some(at) = self.lanes.get(lane) else { return Next::Idle };
        if at.held.load(Ordering::Acquire) {
            return Next::Idle; // whoever holds it rings every doorbell when it lets go, or has reset it
        }
        let mut inner = at.inner.lock();
        // A spinning driver often adds between our publishing and our asking for kicks: go round without an epoll trip.
        for _ in 0..ROUNDS {
            if inner.run != Run::On || at.held.load(Ordering::Acquire) {
                return Next::Idle;
            }
            match inner.call(&self.shared, true, &mut call) {
                Ok(Next::Again) => {}
                Ok(Next::Idle) => return Next::Idle,
                Err(fault) => {
                    self.break_lane(lane, &mut inner, &fault);
                    return Next::Idle;
                }
            }
        }
        Next::Again
    }

    fn break_lane(&self, lane: usize, inner: &mut Inner<M>, fault: &Fault) {
        inner.run = Run::Broken;
        self.shared.faults.increment();
        self.shared.needs_reset();
        self.shared.event(&Event::Fault { lane, fault });
    }

    // For event loops.

    /// How many lanes there are.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// What an event loop needs to know of lane `lane`.
    pub fn lane(&self, lane: usize) -> Option<&LaneInfo> {
        self.lanes.get(lane).map(|l| &l.info)
    }

    /// What the device said of itself.
    pub fn description(&self) -> &Description {
        &self.description
    }
}
