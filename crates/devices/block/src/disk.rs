mod open;
mod ranges;

use crate::fd::{read_at, register, unregister, write_at};
use crate::request::SECTOR;
use crate::{GrowError, Image, Pieces};
use arc_swap::ArcSwapOption;
use io_uring::IoUring;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

pub use open::open_locked;
pub(crate) use ranges::{Means, Ranges};

/// Where a ring has the file that goes through the host's cache.
pub(crate) const BUFFERED: u32 = 0;
/// Where it has the one that does not.
pub(crate) const DIRECT: u32 = 1;

/// A raw image file or a block device of the host, opened and locked.
///
/// The lock is an open file description lock (fcntl(2), F_OFD_SETLK) on the whole file: several may read it, or one may
/// write it, as long as all of them take such locks, which QEMU and others do as well.
#[derive(Debug)]
pub struct RawDisk {
    /// `None` once they were closed.
    files: ArcSwapOption<Files>,
    /// Where it was opened here, and locked.
    path: Option<PathBuf>,
    read_only: bool,
    /// What the host asks of I/O that leaves out its cache, if that is wanted.
    alignment: Option<Alignment>,
    /// The host has dropped writes that it had taken: fsync(2) says so once, and a later success would be a lie.
    lost: AtomicBool,
    ranges: Ranges,
    /// Those that have the files as well.
    rings: Mutex<Vec<Weak<IoUring>>>,
}

#[derive(Debug)]
struct Files {
    /// It has the lock, and is in no ring: those are closed some time after their process has ended.
    locked: File,
    direct: Option<File>,
}

/// What direct I/O must be a multiple of, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Alignment {
    memory: usize,
    offset: usize,
}

impl RawDisk {
    /// Whether nobody can write through it.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Whether requests leave out the host's cache: those that are aligned as the host asks for. Others go through it.
    pub fn direct(&self) -> bool {
        self.alignment.is_some()
    }

    /// Whether the host takes these directly.
    pub(crate) fn is_direct(&self, offset: u64, pieces: &Pieces<'_>) -> bool {
        self.alignment.is_some_and(|to| {
            offset.is_multiple_of(to.offset as u64) && pieces.are_aligned(to.memory, to.offset)
        })
    }

    pub(crate) fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// Whether a flush can still succeed.
    pub(crate) fn trust(&self) -> io::Result<()> {
        if self.lost.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier flush failed: written data may be lost"));
        }
        Ok(())
    }

    /// A flush has failed.
    pub(crate) fn has_lost(&self) {
        self.lost.store(true, Ordering::Release);
    }

    /// Gives a ring the files, at [`BUFFERED`] and [`DIRECT`], until they are closed.
    pub(crate) fn register(&self, uring: &Arc<IoUring>) -> io::Result<()> {
        let mut rings = self.rings();
        let files = self.files.load();
        let files = files.as_deref().ok_or_else(pulled)?;
        // What is locked is not given away; what the caller has opened has no lock of ours.
        let buffered = match &self.path {
            Some(path) => open::again(path, self.read_only, 0, &files.locked)?,
            None => files.locked.try_clone()?,
        };
        register(uring, &[buffered.as_raw_fd(), files.direct.as_ref().map_or(-1, AsRawFd::as_raw_fd)])?;
        rings.retain(|ring| ring.strong_count() > 0);
        rings.push(Arc::downgrade(uring));
        Ok(())
    }

    fn rings(&self) -> MutexGuard<'_, Vec<Weak<IoUring>>> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, attempt: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        self.with_files(|files| attempt(&files.locked))
    }

    fn with_files<T>(&self, attempt: impl FnOnce(&Files) -> io::Result<T>) -> io::Result<T> {
        self.files.load().as_deref().map_or_else(|| Err(pulled()), attempt)
    }

    /// With the file for data at this place.
    fn with_best<T>(
        &self,
        offset: u64,
        pieces: &mut Pieces<'_>,
        attempt: impl FnOnce(&File, &mut Pieces<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let direct = self.is_direct(offset, pieces);
        self.with_files(|files| {
            let file = files.direct.as_ref().filter(|_| direct).unwrap_or(&files.locked);
            attempt(file, pieces)
        })
    }
}

fn pulled() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the disk was pulled")
}

impl Image for RawDisk {
    fn size(&self) -> io::Result<u64> {
        // Works for block devices too; nothing else uses the file's position.
        self.with(|mut file| file.seek(SeekFrom::End(0)))
    }

    /// What is new takes no room until it is written.
    fn grow(&self, bytes: u64) -> Result<(), GrowError> {
        if self.read_only {
            return Err(GrowError::ReadOnly);
        }
        if !self.with(File::metadata)?.is_file() {
            return Err(GrowError::NotAFile);
        }
        if !bytes.is_multiple_of(SECTOR) {
            return Err(GrowError::NotSectors(bytes));
        }
        let now = self.size()?;
        if bytes < now {
            return Err(GrowError::Smaller { bytes, now });
        }
        Ok(self.with(|file| file.set_len(bytes))?)
    }

    fn read(&self, offset: u64, to: &mut Pieces<'_>) -> io::Result<()> {
        self.with_best(offset, to, |file, to| read_at(file, offset, to))
    }

    fn write(&self, offset: u64, from: &mut Pieces<'_>) -> io::Result<()> {
        self.with_best(offset, from, |file, from| write_at(file, offset, from))
    }

    /// Once this has failed it fails for ever: the host says only once that it has dropped what it could not write (fsync(2)).
    fn flush(&self) -> io::Result<()> {
        self.trust()?;
        self.with(File::sync_data).inspect_err(|_| self.has_lost())
    }

    /// Punches a hole, where the host has holes.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let Some(mode) = Means::Hole.mode().filter(|_| self.ranges.can(Means::Hole)) else { return Ok(()) };
        match self.with(|file| ranges::allocate(file, mode, offset, len)) {
            Err(error) if self.ranges.after(Means::Hole, &error).is_some() => Ok(()),
            done => done,
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let mut means = self.ranges.best(unmap);
        loop {
            let Some(mode) = means.mode() else { return self.write(offset, &mut Pieces::zeros(len)) };
            let Err(error) = self.with(|file| ranges::allocate(file, mode, offset, len)) else {
                return Ok(());
            };
            means = self.ranges.after(means, &error).ok_or(error)?;
        }
    }

    /// Unlocks the file as well.
    fn close(&self) {
        let mut rings = self.rings();
        self.files.store(None);
        rings.drain(..).filter_map(|ring| ring.upgrade()).for_each(|ring| unregister(&ring, 2));
    }

    fn raw(self: Arc<Self>) -> Option<Arc<RawDisk>> {
        Some(self)
    }
}

#[cfg(test)]
mod tests;
