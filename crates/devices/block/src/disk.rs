use crate::fd::{Lock, lock, read_at, write_at};
use crate::request::SECTOR;
use crate::{BlockConfig, BlockError, GrowError};
use arc_swap::ArcSwapOption;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

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
        Self { file: ArcSwapOption::from_pointee(file), read_only, lost: AtomicBool::new(false) }
    }

    /// Closes and unlocks the file, as soon as what others are just doing with it has ended. Everything fails from now on.
    pub fn close(&self) {
        self.file.store(None);
    }

    fn with<T>(&self, attempt: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        match self.file.load().as_deref() {
            Some(file) => attempt(file),
            None => Err(io::Error::new(io::ErrorKind::NotConnected, "the disk was pulled")),
        }
    }

    /// Its size now, in bytes. A last sector that is not whole is not part of the disk.
    ///
    /// # Errors
    /// What the host said.
    pub fn size(&self) -> io::Result<u64> {
        // Works for block devices too; nothing else uses the file's position.
        self.with(|mut file| file.seek(SeekFrom::End(0)))
    }

    /// Makes the file `bytes` long; what is new reads as zeros, and takes no room until it is written.
    ///
    /// # Errors
    /// [`GrowError`]; the file is as it was then.
    pub fn grow(&self, bytes: u64) -> Result<(), GrowError> {
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

    /// Whether nobody can write through it.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Fills pieces of guest memory from the disk, beginning at byte `offset`.
    ///
    /// # Errors
    /// What the host said; `UnexpectedEof` past the end. Some of it may have been filled.
    pub fn read<B: BitmapSlice>(&self, offset: u64, to: &[VolatileSlice<'_, B>]) -> io::Result<()> {
        self.with(|file| read_at(file, offset, to))
    }

    /// Writes pieces of guest memory to the disk, beginning at byte `offset`.
    ///
    /// # Errors
    /// What the host said. Some of it may have been written.
    pub fn write<B: BitmapSlice>(&self, offset: u64, from: &[VolatileSlice<'_, B>]) -> io::Result<()> {
        self.with(|file| write_at(file, offset, from))
    }

    /// Returns when everything that was written is on stable storage.
    ///
    /// # Errors
    /// What the host said. Once this has failed it fails for ever: the host may have dropped what it could not write, and
    /// says so only once (fsync(2)).
    pub fn flush(&self) -> io::Result<()> {
        if self.lost.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier flush failed: written data may be lost"));
        }
        self.with(File::sync_data).inspect_err(|_| self.lost.store(true, Ordering::Release))
    }
}

#[cfg(test)]
mod tests;
