//! Ending a job from outside.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::event::{EventfdFlags, eventfd};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

const NOT_YET: i32 = -1;
const BY_HAND: i32 = 0;

/// A switch that ends the jobs it was given to; clones share it.
///
/// ```
/// let cancel = drystone_lab::Cancel::new()?;
/// let other = cancel.clone();
/// std::thread::spawn(move || other.cancel()).join().unwrap();
/// assert!(cancel.is_cancelled());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Cancel {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    cause: AtomicI32,
    event: OwnedFd,
}

impl Cancel {
    /// A switch that is off.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { shared: Arc::new(Shared { cause: AtomicI32::new(NOT_YET), event }) })
    }

    /// A switch that SIGINT, SIGTERM and SIGHUP turn on, from now to the end of the process.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn on_signals() -> io::Result<Self> {
        let cancel = Self::new()?;
        let switch = cancel.clone();
        let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])?;
        std::thread::Builder::new().name("lab-signals".into()).spawn(move || {
            for signal in signals.forever() {
                switch.turn(signal);
            }
        })?;
        Ok(cancel)
    }

    /// Turns the switch on; it stays on.
    pub fn cancel(&self) {
        self.turn(BY_HAND);
    }

    fn turn(&self, cause: i32) {
        let _ = self.shared.cause.compare_exchange(NOT_YET, cause, Ordering::SeqCst, Ordering::SeqCst);
        let _ = rustix::io::write(&self.shared.event, &1u64.to_ne_bytes());
    }

    /// True once it has been turned on.
    pub fn is_cancelled(&self) -> bool {
        self.shared.cause.load(Ordering::SeqCst) != NOT_YET
    }

    /// The error for a job that ends by this.
    pub(crate) fn error(&self) -> crate::Error {
        let cause = self.shared.cause.load(Ordering::SeqCst);
        crate::Error::Cancelled((cause > BY_HAND).then_some(cause))
    }

    /// Readable once it has been turned on.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }
}

/// A stream on which a byte arrives for each change of the terminal's size, until it is dropped.
#[derive(Debug)]
pub(crate) struct Resizes {
    stream: UnixStream,
    handler: signal_hook::SigId,
}

impl Resizes {
    pub(crate) fn watch() -> io::Result<Self> {
        let (stream, writer) = UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        let handler = signal_hook::low_level::pipe::register(signal_hook::consts::SIGWINCH, writer)?;
        Ok(Self { stream, handler })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Forgets what has arrived.
    pub(crate) fn drain(&self) {
        let mut bytes = [0; 64];
        while matches!(rustix::io::read(&self.stream, &mut bytes), Ok(length) if length > 0) {}
    }
}

impl Drop for Resizes {
    fn drop(&mut self) {
        signal_hook::low_level::unregister(self.handler);
    }
}
