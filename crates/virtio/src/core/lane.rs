use super::{LaneInfo, Next, Shared};
use crate::ring::Ring;
use crate::{Cx, Fault, VirtioDevice, Worker};
use drystone_memory::Mem;
use parking_lot::{Mutex, MutexGuard};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    /// Not started, or reset.
    Off,
    On,
    Paused,
    /// A fault; only a reset helps. Other lanes go on.
    Broken,
}

pub(super) enum Actor<M: Mem> {
    Device(Box<dyn VirtioDevice<M>>),
    Worker(Box<dyn Worker<M>>),
}

impl<M: Mem> Actor<M> {
    pub fn worker(&mut self) -> &mut dyn Worker<M> {
        match self {
            Actor::Device(device) => &mut **device,
            Actor::Worker(worker) => &mut **worker,
        }
    }
}

pub(super) struct Lane<M: Mem> {
    pub info: LaneInfo,
    /// Somebody wants the lock for control, or a reset could not finish: loops leave at once. `Inner::run` decides.
    pub held: AtomicBool,
    /// The lock was not to be had in time. The next who tries does not wait.
    pub stuck: AtomicBool,
    /// It was given up while it was stuck: whoever gets the lock breaks it. It stays held until then.
    pub doomed: AtomicBool,
    pub inner: Mutex<Inner<M>>,
}

pub(super) struct Inner<M: Mem> {
    pub actor: Actor<M>,
    pub rings: Vec<Ring>,
    pub run: Run,
    pub features: u64,
    pub memory: M,
    /// Its requests did not come home in time. The next who asks for them does not wait.
    pub clinging: bool,
}

pub(super) type Locked<'a, M> = MutexGuard<'a, Inner<M>>;

impl<M: Mem> Lane<M> {
    pub fn new(info: LaneInfo, actor: Actor<M>, rings: Vec<Ring>, memory: M) -> Self {
        let inner = Inner { actor, rings, run: Run::Off, features: 0, memory, clinging: false };
        Self {
            info,
            held: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            doomed: AtomicBool::new(false),
            inner: Mutex::new(inner),
        }
    }

    /// Loops leave at the next chance.
    pub fn hold(&self) {
        self.held.store(true, Ordering::Release);
    }

    /// Loops may enter again. Whoever releases a lane that runs rings its doorbells.
    pub fn release(&self) {
        self.held.store(self.doomed.load(Ordering::Acquire), Ordering::Release);
    }
}

impl<M: Mem> Inner<M> {
    pub fn device(&mut self) -> Option<&mut dyn VirtioDevice<M>> {
        match &mut self.actor {
            Actor::Device(device) => Some(&mut **device),
            Actor::Worker(_) => None,
        }
    }

    pub fn in_flight(&self) -> u32 {
        self.rings.iter().map(|r| u32::from(r.in_flight())).sum()
    }

    /// Has every request come home, completed or dropped?
    pub fn is_home(&self) -> bool {
        self.rings.iter().all(Ring::is_home)
    }

    /// Every call into a worker that may touch rings goes through here: one snapshot of memory, a budget for each ring,
    /// faults and panics collected.
    pub fn call(
        &mut self,
        shared: &Shared,
        serve: bool,
        call: impl FnOnce(&mut dyn Worker<M>, &mut Cx<'_, M>) -> Result<(), Fault>,
    ) -> Result<Next, Fault> {
        let Self { actor, rings, features, memory, run: _, clinging: _ } = self;
        for ring in rings.iter_mut() {
            ring.begin(serve);
        }
        let guard = memory.memory();
        let mut cx = Cx { guard: &guard, rings, shared, features: *features };
        contain(|| call(actor.worker(), &mut cx))??;
        let mut next = Next::Idle;
        for ring in rings {
            if ring.end()? {
                next = Next::Again;
            }
        }
        Ok(next)
    }
}

/// Turns a panic of a worker into a fault. What it leaves behind is not trusted: the lane is stopped, and runs again only
/// after a reset has got every request back.
pub(super) fn contain<T>(call: impl FnOnce() -> T) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| Fault::Panic(message(&*payload)))
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}
