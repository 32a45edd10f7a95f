use super::Shared;
use crate::bytes::lock;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use vmm_sys_util::eventfd::EventFd;

/// The end of a [`Serial`](super::Serial) where bytes for the guest go in. May be cloned and used from any thread.
///
/// Bytes are taken as far as the receive FIFO has room; the rest stays with the caller, who waits in
/// [`wait`](Self::wait), or in `poll` on [`room_event`](Self::room_event), until the guest has read on.
#[derive(Clone)]
pub struct SerialInput(Arc<Shared>);

impl SerialInput {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Gives bytes to the guest, and returns how many of them, from the front, were taken: as many as the receive
    /// FIFO has room for; none while the machine is paused or gone. Never blocks.
    pub fn push(&self, data: &[u8]) -> usize {
        let shared = &*self.0;
        let mut inner = lock(&shared.inner);
        if inner.finished {
            return 0;
        }
        let taken = if inner.paused { 0 } else { inner.uart.receive(data, &*shared.interrupt) };
        if taken < data.len() {
            inner.starved = true;
            // From now on the event means room made after this push. An event that is not set is as good.
            let _ = shared.room_event.read();
        }
        taken
    }

    /// Waits until there is room again after a push that came short, at most for `timeout`. Returns whether there
    /// is; if no push came short, there is, at once. Returns true when the machine is gone, too: see
    /// [`is_closed`](Self::is_closed).
    pub fn wait(&self, timeout: Duration) -> bool {
        let inner = lock(&self.0.inner);
        let waited = self.0.room.wait_timeout_while(inner, timeout, |i| i.starved && !i.finished);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Readable once there is room after a push that came short, or when the machine is gone. The next push that
    /// comes short clears it. For `poll` and event loops; only poll it, don't read it.
    pub fn room_event(&self) -> &EventFd {
        &self.0.room_event
    }

    /// Whether the device is gone, so that nothing will be taken any more.
    pub fn is_closed(&self) -> bool {
        lock(&self.0.inner).finished
    }
}
