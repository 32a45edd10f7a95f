mod ranges;

use crate::fd::{Lock, lock, read_at, write_at};
use crate::request::SECTOR;
use crate::{BlockConfig, BlockError, GrowError, Image, Pieces};
use arc_swap::ArcSwapOption;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) use ranges::{Means, Ranges};

/// A raw image file or a block device of the host, opened and locked.
///
/// The lock is an open file description lock (fcntl(2), F_OFD_SETLK) on the whole file: several may read it, or one may
/// write it, as long as all of them take such locks, which QEMU and others do as well.
#[derive(Debug)]
pub struct RawDisk {
    /// `None` once it was closed.
    file: ArcSwapOption<File>,
    read_only: bool,
    /// The host has dropped writes that it had taken: fsync(2) says so once, and a later success would be a lie.
    lost: AtomicBool,
    ranges: Ranges,
}

impl RawDisk {
    /// Opens and locks the file that `config` names.
    ///
    /// # Errors
    /// [`BlockError`], in one line that names the disk and the file.
    pub fn open(config: &BlockConfig) -> Result<Self, BlockError> {
        let BlockConfig { id, path, read_only, .. } = config;
        let fail = |attempt, cause| BlockError::File { id: id.clone(), path: path.clone(), attempt, cause };
        let attempt = if *read_only { "open for reading" } else { "open for writing" };
        let mut options = OpenOptions::new();
        // A pipe given by mistake must not make this program wait.
        options.read(true).write(!read_only).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
        let file = options.open(path).map_err(|cause| fail(attempt, cause))?;
        let kind = file.metadata().map_err(|cause| fail("look at it", cause))?.file_type();
        let not = |what| BlockError::NotADisk { id: id.clone(), path: path.clone(), what };
        if !kind.is_file() && !kind.is_block_device() {
            return Err(not("neither a file nor a block device"));
        }
        match lock(&file, !read_only) {
            Ok(Lock::Taken) => {}
            Ok(Lock::Busy) => {
                let (id, path, read_only) = (id.clone(), path.clone(), *read_only);
                return Err(BlockError::Locked { id, path, read_only });
            }
            Err(cause) => return Err(fail("lock it", cause)),
        }
        let disk = Self::of(Some(file), *read_only);
        if disk.size().map_err(|cause| fail("find its size", cause))? < SECTOR {
            return Err(not("smaller than a sector of 512 bytes"));
        }
        Ok(disk)
    }

    /// A disk whose file was closed already.
    pub(crate) fn closed(read_only: bool) -> Self {
        Self::of(None, read_only)
    }

    fn of(file: Option<File>, read_only: bool) -> Self {
        let file = ArcSwapOption::from_pointee(file);
        Self { file, read_only, lost: AtomicBool::new(false), ranges: Ranges::default() }
    }

    /// Whether nobody can write through it.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    fn with<T>(&self, attempt: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        match self.file.load().as_deref() {
            Some(file) => attempt(file),
            None => Err(io::Error::new(io::ErrorKind::NotConnected, "the disk was pulled")),
        }
    }
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
        self.with(|file| read_at(file, offset, to))
    }

    fn write(&self, offset: u64, from: &mut Pieces<'_>) -> io::Result<()> {
        self.with(|file| write_at(file, offset, from))
    }

    /// Once this has failed it fails for ever: the host says only once that it has dropped what it could not write (fsync(2)).
    fn flush(&self) -> io::Result<()> {
        if self.lost.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier flush failed: written data may be lost"));
        }
        self.with(File::sync_data).inspect_err(|_| self.lost.store(true, Ordering::Release))
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
        self.file.store(None);
    }

    fn raw(&self) -> Option<&RawDisk> {
        Some(self)
    }
}

#[cfg(test)]
mod tests;
