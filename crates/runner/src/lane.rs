use crate::{Doorbells, RunnerError};
use drystone_memory::Mem;
use drystone_virtio::{Next, Source, VirtioCore};
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use vmm_sys_util::eventfd::EventFd;

/// In an event's data: a doorbell (low bits: its position in `bells`); else a source (its position in `sources`).
const BELL: u32 = 1 << 31;

/// What the event loops hold.
pub(crate) type Subscriber = Box<dyn Lane>;

/// One lane, its device's type of guest memory erased.
pub(crate) trait Lane: Send {
    fn listen(&mut self, ops: &mut EventOps<'_>);
    fn hear(&mut self, data: u32);
}

impl MutEventSubscriber for Subscriber {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        (**self).listen(ops);
    }
    fn process(&mut self, events: Events, _: &mut EventOps<'_>) {
        (**self).hear(events.data());
    }
}

/// `init` cannot answer, so this is where it leaves its error.
pub(crate) type Failure = Arc<Mutex<Option<RunnerError>>>;

/// A lane in an event loop. It owns every descriptor that it listens to, for as long as it is there: so no number is
/// reused under the loop, and each is registered once.
pub(crate) struct LaneEvents<M: Mem> {
    core: Arc<VirtioCore<M>>,
    lane: usize,
    bells: Vec<(u16, EventFd)>,
    sources: Vec<Source>,
    failure: Failure,
}

impl<M: Mem> LaneEvents<M> {
    pub(crate) fn new(
        core: &Arc<VirtioCore<M>>,
        lane: usize,
        doorbells: &Doorbells,
        failure: Failure,
    ) -> Result<Self, RunnerError> {
        let info = core.lane(lane).cloned();
        let (queues, sources) = match info {
            Some(info) if info.offloaded => (Vec::new(), info.sources),
            Some(info) => (info.queues, info.sources),
            None => (Vec::new(), Vec::new()),
        };
        let mut bells = Vec::new();
        for queue in queues {
            let event = doorbells.event(queue).ok_or(RunnerError::NoDoorbell { lane, queue })?;
            let event = event.try_clone().map_err(|cause| listen(lane, format!("queue {queue}"), cause))?;
            bells.push((queue, event));
        }
        Ok(Self { core: core.clone(), lane, bells, sources, failure })
    }

    fn fail(&self, what: String, cause: impl std::fmt::Display) {
        let error = listen(self.lane, what, io::Error::other(cause.to_string()));
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn kick(&self, queue: u16, bell: &EventFd) {
        // Before the ring is looked at, so that a notification that comes meanwhile is not lost.
        let _ = bell.read();
        if self.core.kick(queue) == Next::Again {
            // Through the event loop, so that the thread's other lanes get their turns.
            let _ = bell.write(1);
        }
    }
}

fn listen(lane: usize, what: String, cause: io::Error) -> RunnerError {
    RunnerError::Listen { lane, what, cause }
}

impl<M: Mem> Lane for LaneEvents<M> {
    fn listen(&mut self, ops: &mut EventOps<'_>) {
        for (position, (queue, bell)) in (0..).zip(&self.bells) {
            if let Err(e) = ops.add(Events::with_data(bell, BELL | position, EventSet::IN)) {
                self.fail(format!("queue {queue}"), e);
            }
        }
        for (position, source) in (0..).zip(&self.sources) {
            let mut set = EventSet::EDGE_TRIGGERED;
            set.set(EventSet::IN, source.readable);
            set.set(EventSet::OUT, source.writable);
            if let Err(e) = ops.add(Events::with_data_raw(source.fd.as_raw_fd(), position, set)) {
                self.fail(format!("source {}", source.token), e);
            }
        }
    }

    fn hear(&mut self, data: u32) {
        let position = (data & !BELL) as usize;
        if data & BELL != 0 {
            if let Some((queue, bell)) = self.bells.get(position) {
                self.kick(*queue, bell);
            }
        } else if let Some(source) = self.sources.get(position)
            && self.core.ready(self.lane, source.token) == Next::Again
        {
            // Any of its queues may have more.
            for (_, bell) in &self.bells {
                let _ = bell.write(1);
            }
        }
    }
}
