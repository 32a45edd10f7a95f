use crate::qcow2::Kind;

/// Which kind of metadata was written and may not be on stable storage yet.
#[derive(Debug, Default)]
pub(super) struct Order(Option<Kind>);

impl Order {
    /// Something of this kind is to be written: whether what was written before must be on stable storage first. If so it
    /// is asked again.
    pub fn must_wait(&mut self, kind: Kind) -> bool {
        *self.0.get_or_insert(kind) != kind
    }

    /// Everything that was written is on stable storage.
    pub fn synced(&mut self) {
        self.0 = None;
    }
}
