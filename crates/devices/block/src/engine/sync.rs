use super::{Done, Engine, EngineError, Job, Operation};
use crate::RawDisk;
use drystone_memory::Mem;
use std::sync::Arc;
use vm_memory::{GuestMemory, Permissions};

/// Does each operation at once, with one system call for all of its pieces, straight between file and guest memory.
pub struct SyncEngine<M: Mem> {
    disk: Arc<RawDisk>,
    done: Option<Done<M>>,
}

impl<M: Mem> SyncEngine<M> {
    /// An engine on `disk`, which several may share.
    pub fn new(disk: Arc<RawDisk>) -> Self {
        Self { disk, done: None }
    }

    fn perform(&self, job: &Job<M>) -> Result<(), EngineError> {
        let done = match job.operation {
            Operation::Read { offset, .. } => self.disk.read(offset, &slices(job, Permissions::Write)?),
            Operation::Write { offset, through, .. } => {
                self.disk.write(offset, &slices(job, Permissions::Read)?)?;
                if through { self.disk.flush() } else { Ok(()) }
            }
            Operation::Flush => self.disk.flush(),
        };
        Ok(done?)
    }
}

type Slice<'a, M> = vm_memory::VolatileSlice<
    'a,
    vm_memory::bitmap::BS<'a, <<M as vm_memory::GuestAddressSpace>::M as GuestMemory>::Bitmap>,
>;

/// The host memory of a job's pieces: at most 1024 segments, and for each one slice for every region that it touches.
fn slices<M: Mem>(job: &Job<M>, access: Permissions) -> Result<Vec<Slice<'_, M>>, EngineError> {
    let outside = |_| EngineError::Memory;
    let mut slices = Vec::with_capacity(job.chain.readable().len().max(job.chain.writable().len()));
    for segment in job.segments() {
        let pieces = job.memory.get_slices(segment.addr, segment.len as usize, access).map_err(outside)?;
        for piece in pieces {
            slices.push(piece.map_err(outside)?);
        }
    }
    Ok(slices)
}

impl<M: Mem> Engine<M> for SyncEngine<M> {
    fn has_room(&self) -> bool {
        self.done.is_none()
    }
    fn submit(&mut self, job: Job<M>) {
        let result = self.perform(&job);
        self.done = Some(Done { job, result });
    }
    fn reap(&mut self) -> Option<Done<M>> {
        self.done.take()
    }
    fn cancel(&mut self) {
        self.done = None;
    }
}
