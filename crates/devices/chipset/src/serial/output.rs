use super::Shared;
use crate::bytes::lock;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// The end of a [`Serial`](super::Serial) where the guest's output comes out.
///
/// Dropping it closes the line: what is left, and all further output, is discarded, and the guest never waits.
pub struct SerialOutput(Arc<Shared>);

/// What [`SerialOutput::take`] came back with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// This many bytes were appended, at least one.
    Bytes(usize),
    /// The guest has written nothing, and the time is over or a [`SerialWaker`] was used.
    TimedOut,
    /// The device is gone and all that the guest wrote has been taken.
    Closed,
}

impl SerialOutput {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// A handle with which another thread gets this one out of [`take`](Self::take), so that it can wait without
    /// waking up in vain. Where it is needed no longer than the port, it keeps nothing alive that matters.
    pub fn waker(&self) -> SerialWaker {
        SerialWaker(self.0.clone())
    }

    /// Moves all the output that waits to the end of `into` (at most the size of the output buffer), and tells a
    /// guest that was held up that it may go on. If there is none, waits for it, at most for `timeout`, or until a
    /// [`waker`](Self::waker) is used.
    pub fn take(&self, into: &mut Vec<u8>, timeout: Duration) -> Taken {
        let shared = &*self.0;
        let mut inner = lock(&shared.inner);
        inner.taker_waits = true;
        let waited = shared
            .bytes
            .wait_timeout_while(inner, timeout, |inner| {
                // Set again each time: somebody else may have been woken, and have cleared it.
                inner.taker_waits = true;
                !inner.uart.has_output() && !inner.finished && !inner.woken
            })
            .unwrap_or_else(PoisonError::into_inner);
        inner = waited.0;
        inner.taker_waits = false;
        inner.woken = false;
        let taken = inner.uart.take_output(into);
        if taken > 0 {
            // A paused port's registers stand still; it is told when it resumes.
            if !inner.paused {
                inner.uart.output_taken(&*shared.interrupt);
            }
            Taken::Bytes(taken)
        } else if inner.finished {
            Taken::Closed
        } else {
            Taken::TimedOut
        }
    }
}

/// Gets a thread out of [`SerialOutput::take`]; see [`SerialOutput::waker`].
#[derive(Clone)]
pub struct SerialWaker(Arc<Shared>);

impl SerialWaker {
    /// Makes the current or next [`SerialOutput::take`] return without waiting.
    pub fn wake(&self) {
        lock(&self.0.inner).woken = true;
        self.0.bytes.notify_all();
    }
}

impl Drop for SerialOutput {
    fn drop(&mut self) {
        let mut inner = lock(&self.0.inner);
        let paused = inner.paused;
        inner.uart.discard_output(paused, &*self.0.interrupt);
        inner.uart.take_output(&mut Vec::new());
    }
}
