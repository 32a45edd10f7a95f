mod sync;

pub use sync::SyncEngine;

use crate::request::HEADER;
use drystone_memory::Mem;
use drystone_virtio::{Chain, Seg, Source, part};
use std::io;

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
            Operation::Flush => part(&[], 0, 0),
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

/// Does the I/O of one queue, for its worker alone, which calls it from one thread at a time. It does not block longer
/// than the operation that it is given, and holds a job for as long as the host may touch the memory in it.
pub trait Engine<M: Mem>: Send {
    /// Whether it takes another job now. If not, [`reap`](Self::reap) will give one sooner or later.
    fn has_room(&self) -> bool;

    /// Takes a job. Every job comes back from [`reap`](Self::reap), also one that could not be begun.
    fn submit(&mut self, job: Job<M>);

    /// No more jobs come for now: what was submitted is begun.
    fn commit(&mut self) {}

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
