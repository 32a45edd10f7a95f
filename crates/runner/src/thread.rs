use crate::RunnerError;
use crate::lane::{Failure, Subscriber};
use event_manager::{EventManager, RemoteEndpoint, SubscriberId, SubscriberOps};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// One event loop, and its thread from [`start`](Self::start) until it is dropped.
pub(crate) struct LoopThread {
    name: String,
    stop: Arc<AtomicBool>,
    remote: RemoteEndpoint<Subscriber>,
    state: Mutex<State>,
}

type Manager = EventManager<Subscriber>;
type Ops<'a> = dyn SubscriberOps<Subscriber = Subscriber> + 'a;

enum State {
    Idle(Box<Manager>),
    Running(JoinHandle<()>),
    /// There is no thread and will be none.
    Gone,
}

impl LoopThread {
    pub(crate) fn new(name: String) -> Result<Self, RunnerError> {
        let manager = Manager::new().map_err(|e| RunnerError::Thread {
            name: name.clone(),
            attempt: "make an event loop",
            cause: io::Error::other(e.to_string()),
        })?;
        let (stop, remote) = (Arc::default(), manager.remote_endpoint());
        Ok(Self { name, stop, remote, state: Mutex::new(State::Idle(Box::new(manager))) })
    }

    /// Starts the thread, unless it is there.
    pub(crate) fn start(&self) -> Result<(), RunnerError> {
        let mut state = self.state();
        let mut manager = match std::mem::replace(&mut *state, State::Gone) {
            State::Idle(manager) => manager,
            other => {
                *state = other;
                return Ok(());
            }
        };
        let flag = self.stop.clone();
        let work = move || {
            // An error means that epoll itself is broken: the thread ends, and whoever asks it is told.
            while !flag.load(Ordering::Acquire) && manager.run().is_ok() {}
        };
        let thread = std::thread::Builder::new().name(self.name.clone()).spawn(work);
        let name = || self.name.clone();
        *state = State::Running(thread.map_err(|cause| RunnerError::Thread {
            name: name(),
            attempt: "start",
            cause,
        })?);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the loop listen to `lane`.
    pub(crate) fn add(&self, lane: Subscriber, failure: &Failure) -> Result<SubscriberId, RunnerError> {
        let failed = failure.clone();
        self.call(move |ops| {
            let id = ops.add_subscriber(lane);
            let error = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
            match error {
                None => Ok(id),
                Some(error) => {
                    drop(ops.remove_subscriber(id));
                    Err(error)
                }
            }
        })?
    }

    /// Has the loop forget a lane. When it returns no worker of it runs on this thread, unless it was called on that.
    pub(crate) fn remove(&self, id: SubscriberId) {
        let forget = move |ops: &mut Ops<'_>| {
            drop(ops.remove_subscriber(id));
        };
        if self.is_own() {
            // A call would wait for itself.
            let _ = self.remote.fire(forget);
        } else {
            let _ = self.call(forget);
        }
    }

    /// Waits until the thread is between two events.
    pub(crate) fn quiesce(&self, patience: Duration) -> Result<(), RunnerError> {
        if matches!(*self.state(), State::Idle(_)) {
            return Ok(());
        }
        let (sender, answer) = mpsc::channel();
        let fired = self.remote.fire(move |_| {
            let _ = sender.send(());
        });
        match fired.map(|()| answer.recv_timeout(patience)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(mpsc::RecvTimeoutError::Timeout)) if !self.is_gone() => {
                Err(RunnerError::Stuck(self.name.clone()))
            }
            _ => Err(RunnerError::Gone(self.name.clone())),
        }
    }

    fn is_gone(&self) -> bool {
        match &*self.state() {
            State::Idle(_) => false,
            State::Running(thread) => thread.is_finished(),
            State::Gone => true,
        }
    }

    /// Whether it is the calling thread.
    fn is_own(&self) -> bool {
        let own = |thread: &JoinHandle<()>| thread.thread().id() == std::thread::current().id();
        matches!(&*self.state(), State::Running(thread) if own(thread))
    }

    /// Has the loop do `f`, now if it has no thread yet.
    fn call<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Ops<'_>) -> T + Send + 'static,
    ) -> Result<T, RunnerError> {
        if let State::Idle(manager) = &mut *self.state() {
            return Ok(f(manager.as_mut()));
        }
        let answer = self.remote.call_blocking(move |ops| Ok::<_, event_manager::Error>(f(ops)));
        answer.map_err(|_| RunnerError::Gone(self.name.clone()))
    }
}

impl Drop for LoopThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.remote.kick();
        let state = std::mem::replace(&mut *self.state(), State::Gone);
        if let State::Running(thread) = state
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}
