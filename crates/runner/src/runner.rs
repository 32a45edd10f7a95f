use crate::lane::{Failure, LaneEvents};
use crate::thread::LoopThread;
use crate::{Doorbells, RunnerError};
use drystone_memory::Mem;
use drystone_state::{Component, ComponentError, NoState, Persist, PersistDyn, RestoreError, SaveError};
use drystone_virtio::VirtioCore;
use event_manager::SubscriberId;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Threads that run the workers of any number of devices. Cheap to clone; the threads end when the last clone and the
/// last [`Attachment`] are gone.
#[derive(Clone)]
pub struct Runner(Arc<Threads>);

struct Threads {
    threads: Vec<LoopThread>,
    /// The thread that gets the next lane.
    next: AtomicUsize,
    patience: Duration,
}

/// A device that a [`Runner`] runs, until this is dropped.
#[must_use = "dropping it ends the running"]
pub struct Attachment {
    threads: Arc<Threads>,
    lanes: Vec<(usize, SubscriberId)>,
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
        self.0.threads.iter().try_for_each(LoopThread::start)
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
        let make = |n| LoopThread::new(format!("{name}-{n}"));
        let threads = (0..threads.get()).map(make).collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(Threads { threads, next: AtomicUsize::new(0), patience })))
    }

    /// Runs the lanes of a device, each on one thread, the next thread for the next lane. Not to be called from a worker.
    ///
    /// # Errors
    /// [`RunnerError`]; no lane of it is run then.
    pub fn attach<M: Mem>(
        &self,
        core: &Arc<VirtioCore<M>>,
        doorbells: &Doorbells,
    ) -> Result<Attachment, RunnerError> {
        let mut attachment = Attachment { threads: self.0.clone(), lanes: Vec::new() };
        for lane in 0..core.lanes() {
            let failure = Failure::default();
            let events = LaneEvents::new(core, lane, doorbells, failure.clone())?;
            let turn = self.0.next.fetch_add(1, Ordering::Relaxed) % self.0.threads.len().max(1);
            let Some(thread) = self.0.threads.get(turn) else { continue };
            attachment.lanes.push((turn, thread.add(Box::new(events), &failure)?));
        }
        Ok(attachment)
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.0.threads.len()
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        for (thread, id) in self.lanes.drain(..) {
            if let Some(thread) = self.threads.threads.get(thread) {
                thread.remove(id);
            }
        }
    }
}

/// To be paused after the devices: their cores have then stopped every lane, and here each thread says that it is not in
/// a worker any more.
impl Component for Runner {
    fn pause(&self) -> Result<(), ComponentError> {
        let quiesce = |t: &LoopThread| t.quiesce(self.0.patience);
        self.0.threads.iter().try_for_each(quiesce).map_err(ComponentError::new)
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
