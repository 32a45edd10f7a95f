//! Waiting for several descriptors at once.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Descriptors under the names that the caller knows them by.
#[derive(Debug)]
pub(crate) struct Watch<'fd, S> {
    sources: Vec<S>,
    fds: Vec<PollFd<'fd>>,
}

impl<'fd, S> Watch<'fd, S> {
    pub(crate) fn new() -> Self {
        Self { sources: Vec::new(), fds: Vec::new() }
    }

    /// Adds a descriptor, if there is one. Without any flag it is still seen when its other end goes away.
    pub(crate) fn add(&mut self, source: S, fd: Option<BorrowedFd<'fd>>, flags: PollFlags) {
        if let Some(fd) = fd {
            self.sources.push(source);
            self.fds.push(PollFd::from_borrowed_fd(fd, flags));
        }
    }

    /// Waits until one of them is ready or the time has come; gives those that are ready.
    pub(crate) fn wait(mut self, deadline: Option<Instant>) -> io::Result<Vec<S>> {
        // One more millisecond, so that the time really has come when nothing else has.
        let left =
            |deadline: Instant| deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        let timeout = deadline.map(left).and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut self.fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let ready = self.sources.into_iter().zip(&self.fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|(source, _)| source).collect())
    }
}
