//! The descriptors that the user gave us: read and written without ever blocking past a stop, and without changing
//! their flags, which are shared with the user's shell.

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// A descriptor for the same file as `fd`: where that is possible one of our own, non-blocking; else a duplicate.
///
/// A terminal or a pipe can be opened anew, which gives flags of our own. Another opening of a regular file would have
/// a position of its own, so that is shared; reading and writing it does not block anyway.
pub(super) fn reopen(fd: BorrowedFd<'_>, access: OFlags) -> io::Result<OwnedFd> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode);
    if kind == FileType::Fifo || rustix::termios::isatty(fd) {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        // Not allowed on a terminal that was another user's before su, nor for a pipe without a reader.
        if let Ok(own) = rustix::fs::open(path, flags, Mode::empty()) {
            return Ok(own);
        }
    }
    fd.try_clone_to_owned()
}

/// Whether `fd` is the null device, as is the standard input of most services: there is nothing to be read, ever.
pub(super) fn is_null(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let stat = rustix::fs::fstat(fd)?;
    let null = rustix::fs::makedev(1, 3);
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == null)
}

/// A latch that a thread in `poll` sees.
pub(super) struct Latch(OwnedFd);

impl Latch {
    pub fn new() -> io::Result<Self> {
        Ok(Self(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }
    pub fn set(&self) {
        // Fails only when the counter is full, and then it is set.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

/// What a wait came back with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    /// The descriptor is ready, or in a state that the next call will report.
    Yes,
    /// The latch is set.
    Latched,
    TimedOut,
}

/// Waits until `fd` (if any) has `events`, the latch (if any) is set, or the time is over. The latch wins.
pub(super) fn wait(
    fd: Option<(BorrowedFd<'_>, PollFlags)>,
    latch: Option<&Latch>,
    timeout: Option<Duration>,
) -> Ready {
    let timeout = timeout.and_then(|t| Timespec::try_from(t).ok());
    let latch = latch.map(|l| PollFd::new(&l.0, PollFlags::IN));
    let has_latch = latch.is_some();
    let fd = fd.map(|(fd, events)| PollFd::from_borrowed_fd(fd, events));
    let mut fds: Vec<_> = latch.into_iter().chain(fd).collect();
    match rustix::event::poll(&mut fds, timeout.as_ref()) {
        Ok(0) | Err(_) => Ready::TimedOut,
        Ok(_) if has_latch && fds.first().is_some_and(|l| !l.revents().is_empty()) => Ready::Latched,
        Ok(_) => Ready::Yes,
    }
}

/// What a read or write may say instead of success without anything being wrong.
pub(super) fn is_transient(e: Errno) -> bool {
    matches!(e, Errno::AGAIN | Errno::INTR)
}
