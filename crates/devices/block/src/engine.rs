mod choose;
mod perform;
mod sync;
mod threads;
mod uring;

pub(crate) use choose::all;
pub use sync::SyncEngine;
pub use threads::{ThreadEngine, ThreadPool};
pub use uring::UringEngine;

use crate::request::HEADER;
use drystone_memory::Mem;
use drystone_virtio::{Chain, Seg, Source, part};
use std::io;
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestMemory, Permissions};

/// What to do with the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Fill the first `len` writable bytes of the request from byte `offset` of the disk.
    Read {
        /// Where on the disk, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// Write the `len` readable bytes of the request after its head to byte `offset` of the disk.
    Write {
        /// Where on the disk, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// Done only when it is on stable storage: the driver does not flush.
        through: bool,
    },
    /// Everything whose completion the driver has seen is put on stable storage.
    Flush,
    /// The content of these bytes is not needed any more.
    Discard {
        /// Where on the disk, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// Make these bytes zeros.
    WriteZeroes {
        /// Where on the disk, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// They need not keep their room on the host.
        unmap: bool,
        /// As for a write.
        through: bool,
    },
}

/// One operation, with the request that it is for. Whoever does the I/O owns it, and with it the memory that it goes to.
pub struct Job<M: Mem> {
    /// The request.
    pub chain: Chain,
    /// What to do. It lies within the disk, and its length within the request and [`MAX_REQUEST`](crate::MAX_REQUEST).
    pub operation: Operation,
    /// Guest memory as it is mapped for this request.
    pub memory: M::T,
    /// Counts requests in the order in which the driver made them.
    pub(crate) order: u64,
}

impl<M: Mem> Job<M> {
    /// The pieces of guest memory that data comes from or goes to. They may lie outside of guest memory.
    pub fn segments(&self) -> impl Iterator<Item = Seg> + '_ {
        match self.operation {
            Operation::Read { len, .. } => part(self.chain.writable(), 0, len),
            Operation::Write { len, .. } => part(self.chain.readable(), HEADER, len),
            Operation::Flush | Operation::Discard { .. } | Operation::WriteZeroes { .. } => part(&[], 0, 0),
        }
    }

    /// What the host does to them.
    pub(crate) fn access(&self) -> Permissions {
        match self.operation {
            Operation::Read { .. } => Permissions::Write,
            _ => Permissions::Read,
        }
    }

    /// Marks what the host has filled of guest memory as dirty: to be called when a read has ended, however it went.
    pub fn mark_filled(&self) {
        if !matches!(self.operation, Operation::Read { .. }) {
            return;
        }
        for segment in self.segments() {
            let slices = self.memory.get_slices(segment.addr, segment.len as usize, Permissions::Write);
            for slice in slices.into_iter().flatten().flatten() {
                slice.bitmap().mark_dirty(0, slice.len());
            }
        }
    }
}

/// An operation that has ended.
pub struct Done<M: Mem> {
    /// What was done.
    pub job: Job<M>,
    /// How it went.
    pub result: Result<(), EngineError>,
}

/// Why an operation was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The guest named memory that it does not have.
    #[error("not in guest memory")]
    Memory,
    /// The host failed it.
    #[error(transparent)]
    Host(#[from] io::Error),
}

/// Does the I/O of one queue, for its worker alone, which calls it from one thread at a time, not always the same.
///
/// It holds a job for as long as the host may touch the memory in it, also beyond its own end: one that is dropped while the host
/// still has some keeps them. So that memory stays mapped, and a reset, which is over only when every job was dropped, leaves nothing behind
/// that could write to the guest. A host that never lets go is the core's to report: it waits as long as its patience.
pub trait Engine<M: Mem>: Send {
    /// Whether it takes another job now. If not, [`reap`](Self::reap) will give one sooner or later.
    fn has_room(&self) -> bool;

    /// Takes a job. Every job comes back from [`reap`](Self::reap), also one that could not be begun.
    fn submit(&mut self, job: Job<M>);

    /// No more jobs come for now: what was submitted is begun. False if the host cannot take some of it just now: it is to be called again
    /// soon, as nothing may be with the host that could say when.
    fn commit(&mut self) -> bool {
        true
    }

    /// The next job that has ended, in any order.
    fn reap(&mut self) -> Option<Done<M>>;

    /// Drops every job that the host does not touch any more, and asks the host to give up the others. Called again, when
    /// [`source`](Self::source) says something, until all are dropped.
    fn cancel(&mut self);

    /// What becomes readable when a job has ended; `None` if all have when `submit` returns.
    fn source(&self, token: u32) -> Option<Source> {
        let _ = token;
        None
    }
}
