//! Holes and zeros: what a host does about a range without its content being moved.
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// A way to make a range zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Means {
    /// A hole: the room is given back.
    Hole,
    /// The host marks the range, and keeps its room.
    Mark,
    /// Zeros are written.
    Write,
}

impl Means {
    /// For fallocate(2); `None` if zeros are to be written.
    pub fn mode(self) -> Option<FallocateFlags> {
        match self {
            Self::Hole => Some(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE),
            Self::Mark => Some(FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE),
            Self::Write => None,
        }
    }
}

/// What a file's host can do, as far as it was tried. Trying costs nothing but once: there is no way to ask.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    no_holes: AtomicBool,
    no_marks: AtomicBool,
}

impl Ranges {
    /// The best way to make zeros.
    pub fn best(&self, unmap: bool) -> Means {
        if unmap && self.can(Means::Hole) {
            Means::Hole
        } else if self.can(Means::Mark) {
            Means::Mark
        } else {
            Means::Write
        }
    }

    /// Whether it is worth trying.
    pub fn can(&self, means: Means) -> bool {
        self.flag(means).is_none_or(|flag| !flag.load(Ordering::Relaxed))
    }

    /// The host failed at `means` with `error`: the next best way, or `None` if that was an error and not a refusal. A host that cannot is not
    /// asked again; one that did not like the range (a block device with larger blocks) is.
    pub fn after(&self, means: Means, error: &io::Error) -> Option<Means> {
        match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => {
                if let Some(flag) = self.flag(means) {
                    flag.store(true, Ordering::Relaxed);
                }
            }
            Some(libc::EINVAL) => {}
            _ => return None,
        }
        match means {
            Means::Hole if self.can(Means::Mark) => Some(Means::Mark),
            Means::Hole | Means::Mark => Some(Means::Write),
            Means::Write => None,
        }
    }

    fn flag(&self, means: Means) -> Option<&AtomicBool> {
        match means {
            Means::Hole => Some(&self.no_holes),
            Means::Mark => Some(&self.no_marks),
            Means::Write => None,
        }
    }
}

/// Has the host do it, not interrupted.
pub(super) fn allocate(file: &File, mode: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
    Ok(rustix::io::retry_on_intr(|| fallocate(file, mode, offset, len))?)
}
