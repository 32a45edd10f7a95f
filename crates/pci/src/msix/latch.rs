use super::{Message, Vector, VectorError};
use crate::sync::{Mutex, MutexGuard};
use drystone_bus::Interrupt;

/// A [`Vector`] in software: holds a trigger back while there is no message, and hands messages to a function that sends
/// them, such as one that calls `KVM_SIGNAL_MSI`.
///
/// Each trigger is either sent before [`trigger`](Interrupt::trigger) returns, or pending, or one with a pending one; a
/// message that is set finds out which, so that nothing is lost and nothing is sent twice.
pub struct Latch<S> {
    send: S,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    message: Option<Message>,
    pending: bool,
}

impl<S: Fn(Message) + Send + Sync> Latch<S> {
    /// A vector that sends through `send`, which is called with the latch's lock held: it must not block, and must not call
    /// the device.
    pub fn new(send: S) -> Self {
        Self { send, state: Mutex::new(State::default()) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // `send` may panic only where the whole process is lost anyway; the state is sound between any two steps.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl<S: Fn(Message) + Send + Sync> Interrupt for Latch<S> {
    fn trigger(&self) {
        let mut state = self.lock();
        match state.message {
            Some(message) => (self.send)(message),
            None => state.pending = true,
        }
    }
}

impl<S: Fn(Message) + Send + Sync> Vector for Latch<S> {
    fn set(&self, message: Option<Message>) -> Result<(), VectorError> {
        let mut state = self.lock();
        state.message = message;
        if let Some(message) = message
            && std::mem::take(&mut state.pending)
        {
            (self.send)(message);
        }
        Ok(())
    }

    fn is_pending(&self) -> bool {
        self.lock().pending
    }

    fn clear_pending(&self) {
        self.lock().pending = false;
    }
}
