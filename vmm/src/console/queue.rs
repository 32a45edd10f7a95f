use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};

/// Bytes between the thread that reads and the one that feeds the guest, so that the escape key is seen also while the
/// guest takes nothing.
pub(super) struct Queue {
    limit: usize,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    bytes: VecDeque<u8>,
    /// No more bytes will come.
    ended: bool,
    /// Nobody wants them any more.
    stopped: bool,
}

impl Queue {
    pub fn new(limit: usize) -> Self {
        Self { limit, inner: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn wait_while(&self, condition: impl FnMut(&mut Inner) -> bool) -> MutexGuard<'_, Inner> {
        self.changed.wait_while(self.lock(), condition).unwrap_or_else(|e| e.into_inner())
    }

    /// Appends all of `bytes`, which may pass the limit once; waits first while that is reached. False when stopped.
    pub fn put(&self, bytes: &[u8]) -> bool {
        let mut inner = self.wait_while(|i| i.bytes.len() >= self.limit && !i.stopped);
        inner.bytes.extend(bytes);
        self.changed.notify_all();
        !inner.stopped
    }

    /// Copies up to `into.len()` bytes from the front without taking them, after waiting for some. `None` at the end.
    pub fn peek(&self, into: &mut [u8]) -> Option<usize> {
        let inner = self.wait_while(|i| i.bytes.is_empty() && !i.ended && !i.stopped);
        if inner.stopped || inner.bytes.is_empty() {
            return None;
        }
        Some(into.iter_mut().zip(&inner.bytes).map(|(to, from)| *to = *from).count())
    }

    /// Takes `n` bytes from the front.
    pub fn consume(&self, n: usize) {
        let mut inner = self.lock();
        let n = n.min(inner.bytes.len());
        inner.bytes.drain(..n);
        self.changed.notify_all();
    }

    pub fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    pub fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    pub fn is_stopped(&self) -> bool {
        self.lock().stopped
    }
}
