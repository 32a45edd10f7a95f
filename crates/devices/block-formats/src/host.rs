//! A file as imago has it.
//!
//! Each image has two of these for one file: one for its metadata and one for data. So it is known here what is written, which imago
//! does not say, and three things can be seen to that it leaves open:
//!
//! - **Order.** Reference counts must be on stable storage before what is counted is referred to, and a table before what points to it: else a
//!   host that loses its power leaves clusters that are handed out twice. So one kind of metadata waits for the other
//!   ([`Order`]).
//! - **Data that overwrites metadata**, in an image that somebody has made so: it fails.
//! - **A flush that has failed** fails for ever, as the host says only once what it has lost.
mod order;
mod zero;

use crate::bytes;
use crate::qcow2::{Kind, Layout};
use imago::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::PreallocateMode;
use imago::storage::drivers::CommonStorageHelper;
use order::Order;
use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

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
        #[cfg(test)]
        self.watch.sync()?;
        self.file.sync_data().inspect_err(|_| self.lost.store(true, Ordering::Release))?;
        order.synced();
        Ok(())
    }

    fn kind(&self, offset: u64, len: u64) -> Option<Kind> {
        let layout = self.layout.as_ref()?.read().unwrap_or_else(PoisonError::into_inner);
        Some(layout.kind(offset, len))
    }

    fn write_metadata(&self, from: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        // It is less than some clusters, and looked at.
        let all: Vec<u8> = from.iter().flat_map(|piece| piece.iter().copied()).collect();
        let mut order = self.order();
        if let Some(kind) = self.kind(offset, all.len() as u64)
            && order.must_wait(kind)
        {
            self.sync_ordered(&mut order)?;
            order.must_wait(kind);
        }
        self.write_all(&[IoSlice::new(&all)], offset)?;
        if let Some(layout) = &self.layout {
            let mut layout = layout.write().unwrap_or_else(PoisonError::into_inner);
            layout.written(&self.file, offset, &all);
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
                self.shared.write_all(&pieces, offset)
            }
        }
    }

    #[allow(unsafe_code)] // as above
    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        match self.role {
            Role::Data => {
                self.shared.check_data(offset, length)?;
                self.shared.write_zeroes(offset, length)
            }
            Role::Metadata => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Nothing is held back here.
    fn flush(&self) -> io::Result<()> {
        Ok(())
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
