use crate::lane::{Failure, LaneEvents};
use crate::thread::LoopThread;
use crate::{Doorbells, RunnerError};
use drystone_memory::Mem;
use drystone_state::{Component, ComponentError, NoState, Persist, PersistDyn, RestoreError, SaveError};
use drystone_virtio::VirtioCore;
use event_manager::SubscriberId;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Threads that run the workers of any number of devices. Cheap to clone; the threads end when the last clone and the
/// last [`Attachment`] are gone.
#[derive(Clone)]
pub struct Runner(Arc<Threads>);

struct Threads {
    name: String,
    pool: Mutex<Pool>,
    patience: Duration,
}

struct Pool {
    threads: Vec<Arc<LoopThread>>,
    /// The thread that gets the next lane with queues.
    next: usize,
    /// They run.
    started: bool,
}

/// A device that a [`Runner`] runs, until this is dropped.
#[must_use = "dropping it ends the running"]
pub struct Attachment {
    lanes: Vec<(Arc<LoopThread>, SubscriberId)>,
    /// Threads end with the last of these.
    _threads: Arc<Threads>,
}

impl Runner {
    /// How long a pause waits for a thread to come out of a worker. The device's core, which is asked before, has had its
    /// own patience then.
    pub const PATIENCE: Duration = Duration::from_secs(10);

    /// Starts `threads` threads called `NAME-0`, `NAME-1` and so on. The host shows the first 15 bytes of a thread's name.
    ///
    /// # Errors
    /// [`RunnerError::Thread`]; nothing is left behind.
    pub fn new(name: &str, threads: NonZeroUsize) -> Result<Self, RunnerError> {
        Self::with_patience(name, threads, Self::PATIENCE)
    }

    /// As [`new`](Self::new), with threads that are to be [`start`](Self::start)ed. Until then devices can be attached, and
    /// what their queues are notified of waits; so a machine's guest need not wait for them.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn idle(name: &str, threads: NonZeroUsize) -> Result<Self, RunnerError> {
        Self::build(name, threads, Self::PATIENCE)
    }

    /// Starts the threads that are not there yet.
    ///
    /// # Errors
    /// [`RunnerError::Thread`].
    pub fn start(&self) -> Result<(), RunnerError> {
        let mut pool = self.0.pool();
        pool.started = true;
        pool.threads.iter().try_for_each(|thread| thread.start())
    }

    /// Has at least `threads` threads from now on, for lanes that are attached later; those that were stay where they are. More than
    /// there are processors help nobody, and what there are is never less than it was.
    ///
    /// # Errors
    /// [`RunnerError::Thread`]; those that could be had are there.
    pub fn grow(&self, threads: NonZeroUsize) -> Result<(), RunnerError> {
        let mut pool = self.0.pool();
        while pool.threads.len() < threads.get() {
            let thread = LoopThread::new(format!("{}-{}", self.0.name, pool.threads.len()))?;
            if pool.started {
                thread.start()?;
            }
            // The one with the fewest lanes.
            pool.next = pool.threads.len();
            pool.threads.push(Arc::new(thread));
        }
        Ok(())
    }

    /// As [`new`](Self::new), with another patience than [`PATIENCE`](Self::PATIENCE).
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_patience(name: &str, threads: NonZeroUsize, patience: Duration) -> Result<Self, RunnerError> {
        let runner = Self::build(name, threads, patience)?;
        runner.start()?;
        Ok(runner)
    }

    fn build(name: &str, threads: NonZeroUsize, patience: Duration) -> Result<Self, RunnerError> {
        let pool = Mutex::new(Pool { threads: Vec::new(), next: 0, started: false });
        let runner = Self(Arc::new(Threads { name: name.into(), pool, patience }));
        runner.grow(threads)?;
        runner.0.pool().next = 0;
        Ok(runner)
    }

    /// Runs the lanes of a device, each on one thread: the next thread for the next lane that has queues, and the first for those that have none,
    /// which only hear messages. Not to be called from a worker.
    ///
    /// # Errors
    /// [`RunnerError`]; no lane of it is run then.
    pub fn attach<M: Mem>(
        &self,
        core: &Arc<VirtioCore<M>>,
        doorbells: &Doorbells,
    ) -> Result<Attachment, RunnerError> {
        let mut attachment = Attachment { lanes: Vec::new(), _threads: self.0.clone() };
        for lane in 0..core.lanes() {
            let failure = Failure::default();
            let events = LaneEvents::new(core, lane, doorbells, failure.clone())?;
            let works = core.lane(lane).is_some_and(|info| !info.queues.is_empty());
            let Some(thread) = self.0.thread(works) else { continue };
            let id = thread.add(Box::new(events), &failure)?;
            attachment.lanes.push((thread, id));
        }
        Ok(attachment)
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.0.pool().threads.len()
    }
}

impl Threads {
    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next thread for a lane that `works`, or the first.
    fn thread(&self, works: bool) -> Option<Arc<LoopThread>> {
        let mut pool = self.pool();
        let turn = if works { pool.next } else { 0 };
        if works {
            pool.next = (turn + 1) % pool.threads.len().max(1);
        }
        pool.threads.get(turn).cloned()
    }

    /// All of them, for whoever waits for them.
    fn all(&self) -> Vec<Arc<LoopThread>> {
        self.pool().threads.clone()
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.lanes.drain(..).for_each(|(thread, id)| thread.remove(id));
    }
}

/// To be paused after the devices: their cores have then stopped every lane, and here each thread says that it is not in
/// a worker any more.
impl Component for Runner {
    fn pause(&self) -> Result<(), ComponentError> {
        let quiesce = |thread: &Arc<LoopThread>| thread.quiesce(self.0.patience);
        self.0.all().iter().try_for_each(quiesce).map_err(ComponentError::new)
    }
    // The cores ring the doorbells.
    fn resume(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn reset(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}

/// Threads have no state when they are paused.
impl Persist for Runner {
    type State = NoState;
    fn save(&self) -> Result<NoState, SaveError> {
        Ok(NoState {})
    }
    fn restore(&self, _: NoState) -> Result<(), RestoreError> {
        Ok(())
    }
}
