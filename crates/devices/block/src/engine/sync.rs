use super::perform::perform;
use super::{Done, Engine, Job};
use crate::Image;
use drystone_memory::Mem;
use std::sync::Arc;

/// Does each operation at once, in the thread of the worker, which waits for it: for a host that answers out of its memory, and where
/// neither threads nor io_uring are to be had.
pub struct SyncEngine<M: Mem> {
    image: Arc<dyn Image>,
    done: Option<Done<M>>,
}

impl<M: Mem> SyncEngine<M> {
    /// An engine on `image`, which several may share.
    pub fn new(image: Arc<dyn Image>) -> Self {
        Self { image, done: None }
    }
}

impl<M: Mem> Engine<M> for SyncEngine<M> {
    fn has_room(&self) -> bool {
        self.done.is_none()
    }
    fn submit(&mut self, job: Job<M>) {
        let result = perform(&*self.image, &job);
        self.done = Some(Done { job, result });
    }
    fn reap(&mut self) -> Option<Done<M>> {
        self.done.take()
    }
    fn cancel(&mut self) {
        self.done = None;
    }
}
