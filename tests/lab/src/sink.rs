//! Where a job's output goes.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::Error;

/// What a captured output may grow to, in bytes.
const LARGEST: usize = 256 << 20;
/// A pipe that is ready takes at least this much without blocking (`PIPE_BUF`).
const AT_ONCE: usize = 4096;

/// A function that gets output as it arrives.
pub(crate) type Callback = Box<dyn FnMut(&[u8]) + Send>;

/// One of the two outputs.
pub(crate) enum Sink {
    /// Kept for the caller.
    Capture(Vec<u8>),
    /// Given to a function, and kept.
    Call(Callback, Vec<u8>),
    /// Written to this process's own descriptor.
    Inherit { stream: Stream, waiting: VecDeque<u8> },
}

/// One of this process's own outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl fmt::Debug for Sink {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Capture(_) => "Capture",
            Self::Call(..) => "Call",
            Self::Inherit { .. } => "Inherit",
        })
    }
}

impl Sink {
    pub(crate) fn inherit(stream: Stream) -> Self {
        Self::Inherit { stream, waiting: VecDeque::new() }
    }

    /// The descriptor to watch.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'static>> {
        match self {
            Self::Inherit { stream: Stream::Stdout, .. } => Some(rustix::stdio::stdout()),
            Self::Inherit { stream: Stream::Stderr, .. } => Some(rustix::stdio::stderr()),
            _ => None,
        }
    }

    /// True while bytes wait to be written.
    pub(crate) fn is_behind(&self) -> bool {
        matches!(self, Self::Inherit { waiting, .. } if !waiting.is_empty())
    }

    /// Takes bytes. `name` is what an error calls this output.
    pub(crate) fn take(&mut self, bytes: &[u8], name: &'static str) -> Result<(), Error> {
        match self {
            Self::Capture(kept) => keep(kept, bytes, name),
            Self::Call(function, kept) => {
                function(bytes);
                keep(kept, bytes, name)
            }
            Self::Inherit { waiting, .. } => {
                waiting.extend(bytes);
                self.write_ready(name)
            }
        }
    }

    /// Writes while that does not block.
    fn write_ready(&mut self, name: &'static str) -> Result<(), Error> {
        while let (true, Some(fd)) = (self.is_behind(), self.fd()) {
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
            match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
                Ok(ready) if ready > 0 => self.write_some(name)?,
                _ => break,
            }
        }
        Ok(())
    }

    /// Writes once; to be called when the descriptor is ready, or has reported an error.
    pub(crate) fn write_some(&mut self, name: &'static str) -> Result<(), Error> {
        let Some(fd) = self.fd() else { return Ok(()) };
        let Self::Inherit { waiting, .. } = self else { return Ok(()) };
        if waiting.is_empty() {
            // Nothing was asked for, so this is the news that nobody reads any more.
            return Err(Error::OutputClosed(name));
        }
        let (front, _) = waiting.as_slices();
        match rustix::io::write(fd, front.get(..front.len().min(AT_ONCE)).unwrap_or_default()) {
            Ok(length) => {
                waiting.drain(..length);
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(Errno::PIPE) => Err(Error::OutputClosed(name)),
            Err(error) => Err(Error::io("write to", name, error.into())),
        }
    }

    /// What was kept.
    pub(crate) fn into_kept(self) -> Vec<u8> {
        match self {
            Self::Capture(kept) | Self::Call(_, kept) => kept,
            Self::Inherit { .. } => Vec::new(),
        }
    }
}

fn keep(kept: &mut Vec<u8>, bytes: &[u8], name: &str) -> Result<(), Error> {
    if kept.len() + bytes.len() > LARGEST {
        return Err(Error::Job(format!("the job's {name} has grown past {} MiB", LARGEST >> 20)));
    }
    kept.extend_from_slice(bytes);
    Ok(())
}
