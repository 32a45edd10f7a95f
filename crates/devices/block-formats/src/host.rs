//! A file as imago has it.
//!
//! Each image has two of these for one file: one for its metadata and one for data. So it is known here what is written, which imago
//! does not say, and what it leaves open can be seen to:
//!
//! - **Counts.** A table is referred to before its reference count is in the file: a process that is killed then leaves one that is handed out again.
//!   So it is counted there first.
//! - **Entries of tables** that the host did not take are in imago's memory only, and never written again. They are owed here.
//! - **Order.** Reference counts must be on stable storage before what is counted is referred to, a table before what points to it, and data
//!   that was copied before the table that has the copy: else a host that loses its power leaves clusters that are handed
//!   out twice, or has lost what was flushed. So one kind waits for the other ([`Order`]).
//! - **Data that overwrites metadata**, in an image that somebody has made so: it fails.
//! - **A flush that has failed** fails for ever, as the host says only once what it has lost.
mod order;
mod zero;

use crate::bytes::{self, be32};
use crate::qcow2::{Kind, Layout, MAGIC};
use imago::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::PreallocateMode;
use imago::storage::drivers::CommonStorageHelper;
use order::{DataWritten, Order};
use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

/// The most pieces that one system call takes (IOV_MAX).
const MAX_PIECES: usize = 1024;

/// A file, opened and locked, for as long as anything of its image is left.
#[derive(Debug)]
pub(crate) struct Shared {
    pub file: File,
    path: PathBuf,
    lost: AtomicBool,
    /// For images that are written.
    layout: Option<RwLock<Layout>>,
    order: Mutex<Order>,
    data: DataWritten,
    header_failed: AtomicBool,
    no_marks: AtomicBool,
    #[cfg(test)]
    pub watch: crate::disk::tests::Watch,
}

/// What one of imago's objects has of it.
#[derive(Debug)]
pub(crate) struct HostFile {
    shared: Arc<Shared>,
    role: Role,
    helper: CommonStorageHelper,
}

/// What is read and written through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Metadata,
    Data,
}

impl Shared {
    /// With a layout for an image that is to be written.
    pub fn new(file: File, path: PathBuf, layout: Option<Layout>) -> Arc<Self> {
        Arc::new(Self {
            file,
            path,
            lost: AtomicBool::new(false),
            layout: layout.map(RwLock::new),
            order: Mutex::default(),
            data: DataWritten::default(),
            header_failed: AtomicBool::new(false),
            no_marks: AtomicBool::new(false),
            #[cfg(test)]
            watch: Default::default(),
        })
    }

    /// For imago.
    pub fn role(self: &Arc<Self>, role: Role) -> HostFile {
        HostFile { shared: self.clone(), role, helper: CommonStorageHelper::default() }
    }

    /// What is in the host's cache is on stable storage now.
    pub fn sync(&self) -> io::Result<()> {
        let mut order = self.order();
        self.sync_ordered(&mut order)
    }

    fn order(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync_ordered(&self, order: &mut Order) -> io::Result<()> {
        if self.lost.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier flush failed: written data may be lost"));
        }
        self.data.forget();
        #[cfg(test)]
        self.watch.sync()?;
        self.file.sync_data().inspect_err(|_| self.lost.store(true, Ordering::Release))?;
        order.synced();
        Ok(())
    }

    #[cfg(test)]
    pub fn lose(&self) {
        self.lost.store(true, Ordering::Release);
    }

    fn kind(&self, offset: u64, len: u64) -> Option<Kind> {
        Some(read_lock(self.layout.as_ref()?).kind(offset, len))
    }

    fn write_metadata(&self, from: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        // It is less than some clusters, and looked at.
        let all: Vec<u8> = from.iter().flat_map(|piece| piece.iter().copied()).collect();
        let mut order = self.order();
        let Some(layout) = &self.layout else { return self.write_all(&[IoSlice::new(&all)], offset) };
        if read_lock(layout).kind(offset, all.len() as u64) == Kind::Header && be32(&all, 0) != MAGIC {
            return Err(io::Error::other("the image is damaged: something else is where its header is"));
        }
        self.write_owed(&mut order, layout)?;
        let written = self.write_counted(&mut order, layout, offset, &all);
        if written.is_err() {
            match read_lock(layout).kind(offset, all.len() as u64) {
                Kind::FirstLevel | Kind::RefcountTable => order.owed.push((offset, all)),
                Kind::Header => self.header_failed.store(true, Ordering::Release),
                // What is in imago's caches is written again.
                Kind::Refcounts | Kind::Other => {}
            }
        }
        written
    }

    /// Writes what the host did not take before.
    fn write_owed(&self, order: &mut Order, layout: &RwLock<Layout>) -> io::Result<()> {
        while let Some((offset, bytes)) = order.owed.first().cloned() {
            self.write_counted(order, layout, offset, &bytes)?;
            order.owed.remove(0);
        }
        Ok(())
    }

    /// Whether imago may have another header in memory than the file has.
    pub fn header_failed(&self) -> bool {
        self.header_failed.load(Ordering::Acquire)
    }

    fn write_counted(
        &self,
        order: &mut Order,
        layout: &RwLock<Layout>,
        offset: u64,
        bytes: &[u8],
    ) -> io::Result<()> {
        self.count_referred(order, layout, offset, bytes)?;
        self.write_ordered(order, layout, offset, bytes)?;
        let mut layout = layout.write().unwrap_or_else(PoisonError::into_inner);
        layout.written(&self.file, offset, bytes);
        Ok(())
    }

    fn write_ordered(
        &self,
        order: &mut Order,
        layout: &RwLock<Layout>,
        offset: u64,
        bytes: &[u8],
    ) -> io::Result<()> {
        let kind = read_lock(layout).kind(offset, bytes.len() as u64);
        if order.must_wait(kind, &self.data) {
            self.sync_ordered(order)?;
        }
        order.writes(kind);
        self.write_all(&[IoSlice::new(bytes)], offset)
    }

    /// Counts the tables in the file that these bytes refer to: imago has their counts in memory then.
    fn count_referred(
        &self,
        order: &mut Order,
        layout: &RwLock<Layout>,
        offset: u64,
        bytes: &[u8],
    ) -> io::Result<()> {
        let counts: Vec<_> = {
            let layout = read_lock(layout);
            let kind = layout.kind(offset, bytes.len() as u64);
            layout.referred(kind, offset, bytes).into_iter().filter_map(|to| layout.count_of(to)).collect()
        };
        for (at, place) in counts {
            let mut count = bytes::read(&self.file, at, place.len)?;
            if place.raise(&mut count) {
                self.write_ordered(order, layout, at, &count)?;
            }
        }
        Ok(())
    }

    fn check_data(&self, offset: u64, len: u64) -> io::Result<()> {
        match self.kind(offset, len) {
            None | Some(Kind::Other) => Ok(()),
            Some(_) => Err(io::Error::other("the image is damaged: data is where its own tables are")),
        }
    }

    fn write_all(&self, from: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        self.watch.write(from, offset)?;
        let mut from = from.to_vec();
        let (mut rest, mut offset) = (&mut *from, offset);
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let some = rest.get(..MAX_PIECES).unwrap_or(rest);
            let written = rustix::io::retry_on_intr(|| rustix::io::pwritev(&self.file, some, offset))?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            offset += written as u64;
            IoSlice::advance_slices(&mut rest, written);
        }
        Ok(())
    }

    /// Zeros past the end of the file.
    fn read_all(&self, to: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        self.watch.read()?;
        let (mut rest, mut offset) = (to, offset);
        IoSliceMut::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let most = rest.len().min(MAX_PIECES);
            let Some(some) = rest.get_mut(..most) else { break };
            let read = rustix::io::retry_on_intr(|| rustix::io::preadv(&self.file, some, offset))?;
            if read == 0 {
                rest.iter_mut().for_each(|piece| piece.fill(0));
                break;
            }
            offset += read as u64;
            IoSliceMut::advance_slices(&mut rest, read);
        }
        Ok(())
    }
}

fn read_lock(layout: &RwLock<Layout>) -> RwLockReadGuard<'_, Layout> {
    layout.read().unwrap_or_else(PoisonError::into_inner)
}

impl Storage for HostFile {
    fn size(&self) -> io::Result<u64> {
        bytes::len(&self.shared.file)
    }

    fn resolve_relative_path<P: AsRef<Path>>(&self, relative: P) -> io::Result<PathBuf> {
        Ok(self.shared.path.parent().map_or_else(|| relative.as_ref().into(), |own| own.join(&relative)))
    }

    #[allow(unsafe_code)] // nothing is asked of the caller: requests need not be aligned
    unsafe fn pure_readv(&self, bufv: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        self.shared.read_all(&mut bufv.into_inner(), offset)
    }

    #[allow(unsafe_code)] // as above
    unsafe fn pure_writev(&self, bufv: IoVector<'_>, offset: u64) -> io::Result<()> {
        let pieces = bufv.into_inner();
        match self.role {
            Role::Metadata => self.shared.write_metadata(&pieces, offset),
            Role::Data => {
                let len = pieces.iter().map(|piece| piece.len() as u64).sum();
                self.shared.check_data(offset, len)?;
                self.shared.write_all(&pieces, offset)?;
                self.shared.data.note();
                Ok(())
            }
        }
    }

    #[allow(unsafe_code)] // as above
    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        match self.role {
            Role::Data => {
                self.shared.check_data(offset, length)?;
                self.shared.write_zeroes(offset, length)?;
                self.shared.data.note();
                Ok(())
            }
            Role::Metadata => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// imago calls it when its caches are written.
    fn flush(&self) -> io::Result<()> {
        match (&self.shared.layout, self.role) {
            (Some(layout), Role::Metadata) => self.shared.write_owed(&mut self.shared.order(), layout),
            _ => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.shared.sync()
    }

    #[allow(unsafe_code)] // nothing is cached here
    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }

    /// Data is in the file of the metadata, which grows by being written.
    fn resize(&self, _: u64, _: PreallocateMode) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Display for HostFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.path.display().fmt(f)
    }
}
