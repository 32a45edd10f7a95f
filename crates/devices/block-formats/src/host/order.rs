use crate::qcow2::Kind;
use std::sync::atomic::{AtomicBool, Ordering};

/// What was written and may not be on stable storage yet.
#[derive(Debug, Default)]
pub(super) struct Order {
    metadata: Option<Kind>,
    /// Entries of tables that imago has in memory and the host did not take, with their places. imago does not write them again.
    pub owed: Vec<(u64, Vec<u8>)>,
}

/// Data was written since somebody has looked.
#[derive(Debug, Default)]
pub(super) struct DataWritten(AtomicBool);

impl DataWritten {
    /// Called when it was.
    pub fn note(&self) {
        self.0.store(true, Ordering::Release);
    }
    fn is(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
    /// What comes from now on is not synced by what begins now.
    pub fn forget(&self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Order {
    /// Metadata of this kind is to be written: whether what was written before must be on stable storage first.
    ///
    /// Kinds refer to each other. And tables refer to data, which may be what was copied of a cluster and flushed long ago.
    pub fn must_wait(&self, kind: Kind, data: &DataWritten) -> bool {
        self.metadata.is_some_and(|before| before != kind) || (kind == Kind::Other && data.is())
    }

    /// Metadata of this kind is being written.
    pub fn writes(&mut self, kind: Kind) {
        self.metadata = Some(kind);
    }

    /// All metadata that was written is on stable storage.
    pub fn synced(&mut self) {
        self.metadata = None;
    }
}
