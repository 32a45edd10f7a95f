use super::{EngineError, Job, Operation};
use crate::{Image, Pieces};
use drystone_memory::Mem;
use std::io;

/// Does a job from beginning to end.
pub(super) fn perform<M: Mem>(image: &dyn Image, job: &Job<M>) -> Result<(), EngineError> {
    let done = match job.operation {
        Operation::Read { offset, .. } => {
            let done = image.read(offset, &mut Pieces::of(job)?);
            job.mark_filled();
            done
        }
        Operation::Write { offset, through, .. } => {
            let done = image.write(offset, &mut Pieces::of(job)?);
            done.and_then(|()| settle(image, through))
        }
        Operation::Flush => image.flush(),
        Operation::Discard { offset, len } => image.discard(offset, len),
        Operation::WriteZeroes { offset, len, unmap, through } => {
            image.write_zeroes(offset, len, unmap).and_then(|()| settle(image, through))
        }
    };
    Ok(done?)
}

fn settle(image: &dyn Image, through: bool) -> io::Result<()> {
    if through { image.flush() } else { Ok(()) }
}
