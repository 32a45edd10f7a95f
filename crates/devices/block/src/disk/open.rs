use super::{Alignment, Files, Ranges, RawDisk};
use crate::fd::{Lock, lock};
use crate::request::SECTOR;
use crate::{BlockConfig, BlockError, Image};
use arc_swap::ArcSwapOption;
use rustix::fs::{AtFlags, StatxFlags, statx};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

/// What direct I/O is aligned to where the host does not say (before Linux 6.1): no disk has larger blocks.
const LARGEST: Alignment = Alignment { memory: 4096, offset: 4096 };

impl RawDisk {
    /// Opens and locks the file that `config` names.
    ///
    /// # Errors
    /// [`BlockError`], in one line that names the disk and the file.
    pub fn open(config: &BlockConfig) -> Result<Self, BlockError> {
        let BlockConfig { id, path, read_only, .. } = config;
        let locked = open_locked(id, path, *read_only)?;
        let fail = |attempt, cause| BlockError::File { id: id.clone(), path: path.clone(), attempt, cause };
        let direct = if config.direct {
            let file = again(path, *read_only, libc::O_DIRECT, &locked);
            Some(file.map_err(|cause| fail("open without the host's cache", cause))?)
        } else {
            None
        };
        let alignment = direct.as_ref().map(alignment);
        let disk = Self::of(Some(Files { locked, direct }), Some(path.clone()), *read_only, alignment);
        if disk.size().map_err(|cause| fail("find its size", cause))? < SECTOR {
            let (id, path) = (id.clone(), path.clone());
            return Err(BlockError::NotADisk { id, path, what: "smaller than a sector of 512 bytes" });
        }
        Ok(disk)
    }

    /// A disk on a file that the caller has opened, and locked if that is to be: one that was handed over by somebody who may open what this
    /// program may not. Nobody is kept out by it, but for a lock that the caller has taken: with io_uring the host may keep that for some
    /// time after this process has ended.
    pub fn on_file(file: File, read_only: bool) -> Self {
        Self::of(Some(Files { locked: file, direct: None }), None, read_only, None)
    }

    /// A disk whose file was closed already.
    pub(crate) fn closed(read_only: bool) -> Self {
        Self::of(None, None, read_only, None)
    }

    fn of(
        files: Option<Files>,
        path: Option<PathBuf>,
        read_only: bool,
        alignment: Option<Alignment>,
    ) -> Self {
        Self {
            files: ArcSwapOption::from_pointee(files),
            path,
            read_only,
            alignment,
            lost: AtomicBool::new(false),
            ranges: Ranges::default(),
            rings: Mutex::default(),
        }
    }
}

/// Opens what a disk is kept in, a file or a block device, and takes the lock on it that [`RawDisk`] takes: for images in other
/// formats. `id` is the disk's name in messages.
///
/// # Errors
/// [`BlockError`], in one line that names the disk and the file.
pub fn open_locked(id: &str, path: &Path, read_only: bool) -> Result<File, BlockError> {
    let fail = |attempt, cause| BlockError::File { id: id.into(), path: path.into(), attempt, cause };
    let attempt = if read_only { "open for reading" } else { "open for writing" };
    let file = open(path, read_only, 0).map_err(|cause| fail(attempt, cause))?;
    let kind = file.metadata().map_err(|cause| fail("look at it", cause))?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        let what = "neither a file nor a block device";
        return Err(BlockError::NotADisk { id: id.into(), path: path.into(), what });
    }
    match lock(&file, !read_only) {
        Ok(Lock::Taken) => Ok(file),
        Ok(Lock::Busy) => Err(BlockError::Locked { id: id.into(), path: path.into(), read_only }),
        Err(cause) => Err(fail("lock it", cause)),
    }
}

fn open(path: &Path, read_only: bool, flags: i32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // A pipe given by mistake must not make this program wait.
    options.read(true).write(!read_only).custom_flags(flags | libc::O_NONBLOCK | libc::O_CLOEXEC);
    options.open(path)
}

/// Opens once more what `first` is.
pub(super) fn again(path: &Path, read_only: bool, flags: i32, first: &File) -> io::Result<File> {
    let file = open(path, read_only, flags)?;
    let (one, other) = (first.metadata()?, file.metadata()?);
    if (one.dev(), one.ino()) != (other.dev(), other.ino()) {
        return Err(io::Error::other("another file has taken its place"));
    }
    Ok(file)
}

fn alignment(file: &File) -> Alignment {
    let Ok(found) = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) else { return LARGEST };
    let (memory, offset) = (found.stx_dio_mem_align as usize, found.stx_dio_offset_align as usize);
    let known = found.stx_mask & StatxFlags::DIOALIGN.bits() != 0 && memory > 0 && offset > 0;
    if known { Alignment { memory, offset } } else { LARGEST }
}
