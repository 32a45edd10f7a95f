mod ranges;
#[cfg(test)]
pub(crate) mod tests;

use crate::chain::{self, Opened, Qcow2Parts, Wish};
use crate::host::{HostFile, Shared};
use crate::{Backing, Format, FormatError};
use arc_swap::ArcSwapOption;
use drystone_block::{BlockConfig, GrowError, Image, Pieces};
use imago::FormatAccess;
use imago::format::PreallocateMode;
use imago::io_buffers::{IoVector, IoVectorMut};
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A disk in a qcow2 or VMDK image, opened and locked, with all that stands behind it.
///
/// Reads, writes and flushes go side by side. What takes clusters away (discarding, writing zeros), and what needs a new table, has the
/// image to itself for that moment:
///
/// - imago forbids the first beside other requests, and zeros of a part of a cluster would undo a write beside them;
/// - imago takes clusters that were given up for tables before it has written that they were. A process that is killed then would leave
///   a cluster that is two things. So that is written first.
pub struct FormatDisk {
    /// `None` once it was closed.
    open: ArcSwapOption<Open>,
    read_only: bool,
}

struct Open {
    image: RwLock<Inner>,
    shared: Arc<Shared>,
    /// imago has panicked: what it has in memory may be anything.
    broken: AtomicBool,
}

/// What a lock is on.
struct Inner {
    access: FormatAccess<HostFile>,
    qcow2: Option<Qcow2Parts>,
}

impl FormatDisk {
    /// Opens and locks the file that `config` names, for the guest to read and write unless `config` says otherwise.
    ///
    /// # Errors
    /// [`FormatError`], in one line that names the file; nothing was changed.
    pub fn open(config: &BlockConfig, format: Format, backing: Backing) -> Result<Self, FormatError> {
        let wish = Wish { id: &config.id, read_only: config.read_only, backing };
        chain::open(&config.path, format, wish).map(|opened| Self::of(opened, config.read_only))
    }

    /// The same for a file that the caller has opened, and locked if need be. Names in it are relative to the directory of `path`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn on_file(
        file: File,
        path: &Path,
        format: Format,
        read_only: bool,
        backing: Backing,
    ) -> Result<Self, FormatError> {
        let wish = Wish { id: "image", read_only, backing };
        chain::on_file(file, path, format, wish).map(|opened| Self::of(opened, read_only))
    }

    fn of(opened: Opened, read_only: bool) -> Self {
        let Opened { access, shared, qcow2 } = opened;
        let image = RwLock::new(Inner { access, qcow2 });
        let open = Open { image, shared, broken: AtomicBool::new(false) };
        Self { open: ArcSwapOption::from_pointee(open), read_only }
    }

    fn with<T>(&self, attempt: impl FnOnce(&Open) -> io::Result<T>) -> io::Result<T> {
        let open = self.open.load_full().ok_or_else(pulled)?;
        if open.broken.load(Ordering::Acquire) {
            return Err(io::Error::other("the image's library failed before: it must be opened anew"));
        }
        catch_unwind(AssertUnwindSafe(|| attempt(&open))).unwrap_or_else(|_| {
            open.broken.store(true, Ordering::Release);
            Err(io::Error::other("the image's library failed"))
        })
    }
}

fn pulled() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the disk was pulled")
}

impl Open {
    /// Beside others.
    fn beside(&self) -> RwLockReadGuard<'_, Inner> {
        self.image.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Without others.
    fn alone(&self) -> RwLockWriteGuard<'_, Inner> {
        self.image.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn check_bounds(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.checked_add(len).filter(|end| *end <= self.access.size());
        end.map(drop).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn write(&self, offset: u64, from: &Pieces<'_>) -> io::Result<()> {
        let slices: Vec<_> = from.iter().collect();
        let (vector, mapped) = IoVector::from_volatile_slice(&slices);
        let done = self.access.writev(vector, offset);
        drop(mapped);
        done
    }

    /// Whether a write there takes nothing but data clusters.
    fn has_tables(&self, offset: u64, len: u64) -> bool {
        self.qcow2.as_ref().is_none_or(|qcow2| qcow2.tables.have(offset, len))
    }

    /// A table that is to be made there may get a cluster that was given up: nothing in the file refers to it any more after this.
    fn make_tables_safe(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.has_tables(offset, len) { Ok(()) } else { self.access.flush() }
    }
}

impl Image for FormatDisk {
    fn size(&self) -> io::Result<u64> {
        self.with(|open| Ok(open.beside().access.size()))
    }

    fn grow(&self, bytes: u64) -> Result<(), GrowError> {
        if self.read_only {
            return Err(GrowError::ReadOnly);
        }
        if !bytes.is_multiple_of(512) {
            return Err(GrowError::NotSectors(bytes));
        }
        let now = self.size()?;
        if bytes < now {
            return Err(GrowError::Smaller { bytes, now });
        }
        Ok(self.with(|open| {
            if open.shared.header_failed() {
                return Err(io::Error::other(
                    "an earlier change of its header failed: it must be opened anew",
                ));
            }
            open.alone().grow(bytes)
        })?)
    }

    fn read(&self, offset: u64, to: &mut Pieces<'_>) -> io::Result<()> {
        self.with(|open| {
            let slices: Vec<_> = to.iter().collect();
            let (vector, mapped) = IoVectorMut::from_volatile_slice(&slices);
            let inner = open.beside();
            inner.check_bounds(offset, vector.len())?;
            let done = inner.access.readv(vector, offset);
            drop(mapped);
            done
        })
    }

    fn write(&self, offset: u64, from: &mut Pieces<'_>) -> io::Result<()> {
        self.with(|open| {
            let len = from.iter().map(|piece| piece.len() as u64).sum();
            let inner = open.beside();
            inner.check_bounds(offset, len)?;
            if inner.has_tables(offset, len) {
                return inner.write(offset, from);
            }
            drop(inner);
            let inner = open.alone();
            inner.make_tables_safe(offset, len)?;
            inner.write(offset, from)?;
            if let Some(qcow2) = &inner.qcow2 {
                qcow2.tables.set(offset, len);
            }
            Ok(())
        })
    }

    fn flush(&self) -> io::Result<()> {
        self.with(|open| {
            open.beside().access.flush()?;
            open.shared.sync()
        })
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.with(|open| ranges::discard(open, offset, len))
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.with(|open| ranges::write_zeroes(open, offset, len, unmap))
    }

    fn settle(&self) -> io::Result<()> {
        self.with(|open| open.beside().access.flush())
    }

    /// What is only in memory is written first, as far as the host takes it.
    fn close(&self) {
        self.open.store(None);
    }
}

impl Inner {
    fn grow(&mut self, bytes: u64) -> io::Result<()> {
        let Some(qcow2) = &mut self.qcow2 else { return Err(io::ErrorKind::Unsupported.into()) };
        let header = &mut qcow2.header;
        if header.snapshots > 0 {
            return Err(io::Error::other("the image has snapshots of its own, which have the old size"));
        }
        if header.l1_len_for(bytes) > crate::qcow2::MAX_L1 {
            return Err(io::Error::other("clusters of this image are too small for a disk of that size"));
        }
        self.access.flush()?;
        // What stands behind may be longer, and is not to be seen there.
        let new = if header.backing.is_some() { PreallocateMode::Zero } else { PreallocateMode::None };
        let grown = self.access.resize_grow(bytes, new);
        self.access.flush()?;
        grown?;
        header.size = self.access.size();
        qcow2.tables.grow(header);
        Ok(())
    }
}
