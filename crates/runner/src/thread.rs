use crate::RunnerError;
use crate::lane::{Failure, Subscriber};
use event_manager::{EventManager, RemoteEndpoint, SubscriberId, SubscriberOps};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// One event loop on its own thread, until it is dropped.
pub(crate) struct LoopThread {
    name: String,
    stop: Arc<AtomicBool>,
    remote: RemoteEndpoint<Subscriber>,
    thread: Option<JoinHandle<()>>,
}

impl LoopThread {
    pub(crate) fn spawn(name: String) -> Result<Self, RunnerError> {
        let error = |attempt, cause| RunnerError::Thread { name: name.clone(), attempt, cause };
        let mut manager = EventManager::<Subscriber>::new()
            .map_err(|e| error("make an event loop", io::Error::other(e.to_string())))?;
        let (stop, remote) = (Arc::new(AtomicBool::new(false)), manager.remote_endpoint());
        let flag = stop.clone();
        let work = move || {
            // An error means that epoll itself is broken: the thread ends, and whoever asks it is told.
            while !flag.load(Ordering::Acquire) && manager.run().is_ok() {}
        };
        let thread = std::thread::Builder::new().name(name.clone()).spawn(work);
        let thread = Some(thread.map_err(|cause| error("start", cause))?);
        Ok(Self { name, stop, remote, thread })
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
        let forget = move |ops: &mut dyn SubscriberOps<Subscriber = Subscriber>| {
            drop(ops.remove_subscriber(id));
        };
        let own = self.thread.as_ref().is_some_and(|t| t.thread().id() == std::thread::current().id());
        if own {
            // A call would wait for itself.
            let _ = self.remote.fire(forget);
        } else {
            let _ = self.call(forget);
        }
    }

    /// Waits until the thread is between two events.
    pub(crate) fn quiesce(&self, patience: Duration) -> Result<(), RunnerError> {
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
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn call<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut dyn SubscriberOps<Subscriber = Subscriber>) -> T + Send + 'static,
    ) -> Result<T, RunnerError> {
        let answer = self.remote.call_blocking(move |ops| Ok::<_, event_manager::Error>(f(ops)));
        answer.map_err(|_| RunnerError::Gone(self.name.clone()))
    }
}

impl Drop for LoopThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.remote.kick();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}
