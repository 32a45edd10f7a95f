use crate::Source;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Where a device's handle puts messages for its worker, from any thread. Cheap to clone.
#[derive(Debug)]
pub struct Postbox<T> {
    messages: SyncSender<T>,
    event: Arc<EventFd>,
}

impl<T> Clone for Postbox<T> {
    fn clone(&self) -> Self {
        Self { messages: self.messages.clone(), event: self.event.clone() }
    }
}

/// Where a worker takes its messages: in [`on_ready`](crate::Worker::on_ready), and in
/// [`start`](crate::Worker::start), because nobody calls the former before the driver is ready or while paused.
#[derive(Debug)]
pub struct Mailbox<T> {
    messages: Receiver<T>,
    event: Arc<EventFd>,
}

/// Why a message was not posted; it is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PostError {
    /// The worker has not taken those before, for example because the machine is paused.
    #[error("too many messages wait already")]
    Full,
    /// The worker is gone.
    #[error("the device is gone")]
    Gone,
}

/// A pair for at most `capacity` messages that wait.
///
/// # Errors
/// What the host said when it gave no eventfd.
pub fn mailbox<T: Send>(capacity: usize) -> io::Result<(Postbox<T>, Mailbox<T>)> {
    let (sender, receiver) = sync_channel(capacity);
    let event = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
    let postbox = Postbox { messages: sender, event: event.clone() };
    Ok((postbox, Mailbox { messages: receiver, event }))
}

impl<T> Postbox<T> {
    /// Posts a message and wakes the worker.
    ///
    /// # Errors
    /// [`PostError`].
    pub fn post(&self, message: T) -> Result<(), PostError> {
        self.messages.try_send(message).map_err(|e| match e {
            TrySendError::Full(_) => PostError::Full,
            TrySendError::Disconnected(_) => PostError::Gone,
        })?;
        // A full counter already says what this write would.
        let _ = self.event.write(1);
        Ok(())
    }
}

impl<T> Mailbox<T> {
    /// The descriptor to watch, for [`sources`](crate::Worker::sources).
    pub fn source(&self, token: u32) -> Source {
        Source { fd: self.event.clone(), token, readable: true, writable: false }
    }

    /// The next message; `None` when all were taken.
    pub fn take(&self) -> Option<T> {
        // First, so that a message that comes meanwhile rings again.
        let _ = self.event.read();
        self.messages.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_in_order_and_ring() {
        let (postbox, mailbox) = mailbox(2).unwrap();
        assert_eq!(
            (postbox.post(1), postbox.post(2), postbox.post(3)),
            (Ok(()), Ok(()), Err(PostError::Full))
        );
        assert_eq!(mailbox.event.read().unwrap(), 2, "it rang");
        assert_eq!((mailbox.take(), mailbox.take(), mailbox.take()), (Some(1), Some(2), None));
        assert!(mailbox.event.read().is_err(), "nothing rings any more");
        drop(mailbox);
        assert_eq!(postbox.post(4), Err(PostError::Gone));
    }
}
