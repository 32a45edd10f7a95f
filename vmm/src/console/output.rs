use super::host::{self, Latch, Ready};
use super::{OutputSource, Waker};
use drystone_chipset::Taken;
use rustix::event::PollFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a silent source that cannot wake this thread is listened to before it looks whether it is to end.
const GLANCE: Duration = Duration::from_millis(50);
/// The same for one that can: a thread that sleeps costs nothing, and what wakes it is not the time.
const SLEEP: Duration = Duration::from_secs(3600);
/// A pipe or terminal that is ready takes at least one byte; a descriptor that we could not make non-blocking is given
/// little at a time.
const CHUNK: usize = 1024;

/// The thread that brings the guest's output to the user.
pub struct Output {
    shared: Arc<Shared>,
    done: Receiver<()>,
}

struct Shared {
    /// Set when the thread is to drain what is left, until `deadline`.
    stop: Latch,
    state: Mutex<State>,
    /// Gets the thread out of a source that has nothing to say.
    waker: Option<Waker>,
}

#[derive(Default)]
struct State {
    deadline: Option<Instant>,
    /// Not everything reached the user.
    lost: bool,
    /// Said by `drystone` itself, between what the guest says.
    notice: Vec<u8>,
}

impl Shared {
    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// Makes the thread look at the state.
    fn wake(&self) {
        if let Some(wake) = &self.waker {
            wake();
        }
    }
}

impl Output {
    /// Begins to write to `to`. When nobody reads there any more, `source` is dropped, and the guest talks on unheard.
    ///
    /// # Errors
    /// What the host said when the descriptor is unusable or there can be no more threads.
    pub fn start(to: BorrowedFd<'_>, source: Box<dyn OutputSource>) -> io::Result<Self> {
        let to = host::reopen(to, OFlags::WRONLY)?;
        let shared = Arc::new(Shared { stop: Latch::new()?, state: Mutex::default(), waker: source.waker() });
        let (alive, done) = channel();
        let writer = Writer { to, shared: shared.clone(), _alive: alive };
        std::thread::Builder::new().name("console-out".into()).spawn(move || writer.run(source))?;
        Ok(Self { shared, done })
    }

    /// Says something to the user. Dropped when nobody has read the last one.
    pub fn notice(&self) -> impl Fn(&str) + Send + use<> {
        let shared = self.shared.clone();
        move |text| {
            shared.with(|state| {
                if state.notice.is_empty() {
                    state.notice.extend(text.bytes());
                }
            });
            shared.wake();
        }
    }

    /// Writes what is left and ends, within `time` even when nobody reads. True if all of it was written.
    pub fn finish(self, time: Duration) -> bool {
        self.shared.with(|state| state.deadline = Some(Instant::now() + time));
        self.shared.stop.set();
        self.shared.wake();
        // A little more than the thread gives itself. It stays behind only if the host blocks a ready descriptor.
        let ended = self.done.recv_timeout(time + 2 * GLANCE);
        ended == Err(RecvTimeoutError::Disconnected) && !self.shared.with(|s| s.lost)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.shared.with(|state| {
            state.deadline.get_or_insert_with(Instant::now);
        });
        self.shared.stop.set();
        self.shared.wake();
    }
}

struct Writer {
    to: OwnedFd,
    shared: Arc<Shared>,
    /// Dropped with the thread: tells [`Output::finish`].
    _alive: Sender<()>,
}

/// The user cannot be reached.
struct Gone;

impl Writer {
    fn run(self, source: Box<dyn OutputSource>) {
        let mut bytes = Vec::new();
        let patience = if self.shared.waker.is_some() { SLEEP } else { GLANCE };
        loop {
            bytes.clear();
            let stopping = self.shared.with(|state| {
                bytes.append(&mut state.notice);
                state.deadline.is_some()
            });
            let taken = source.take(&mut bytes, if stopping { Duration::ZERO } else { patience });
            if self.write(&bytes).is_err() {
                self.shared.with(|state| state.lost = true);
                return;
            }
            if taken == Taken::Closed || stopping && taken == Taken::TimedOut {
                return;
            }
        }
    }

    fn write(&self, mut bytes: &[u8]) -> Result<(), Gone> {
        while !bytes.is_empty() {
            self.wait()?;
            match rustix::io::write(&self.to, bytes.get(..CHUNK).unwrap_or(bytes)) {
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(e) if host::is_transient(e) => (),
                // The terminal was hung up, the pipe has no reader, the disk is full.
                Err(Errno::IO | Errno::PIPE) | Err(_) => return Err(Gone),
            }
        }
        Ok(())
    }

    /// Waits for room; when we are to end, no longer than until the deadline.
    fn wait(&self) -> Result<(), Gone> {
        let to = Some((self.to.as_fd(), PollFlags::OUT));
        loop {
            let Some(deadline) = self.shared.with(|s| s.deadline) else {
                match host::wait(to, Some(&self.shared.stop), None) {
                    Ready::Yes => return Ok(()),
                    Ready::Latched | Ready::TimedOut => continue,
                }
            };
            let left = deadline.saturating_duration_since(Instant::now());
            match host::wait(to, None, Some(left)) {
                Ready::Yes => return Ok(()),
                _ if left.is_zero() => return Err(Gone),
                _ => (),
            }
        }
    }
}
