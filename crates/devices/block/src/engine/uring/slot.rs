use crate::disk::{BUFFERED, DIRECT, Means};
use crate::{Done, EngineError, Job, Operation, Pieces, RawDisk};
use drystone_memory::Mem;
use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::{Fixed, FsyncFlags};
use std::io;

/// How often the host may say "not now" to one operation.
const MAX_TRIES: u8 = 16;

/// A job that is with the host: one operation after the other.
pub(super) struct Slot<M: Mem> {
    job: Job<M>,
    stage: Stage,
    tries: u8,
    /// The host was asked to give it up.
    pub given_up: bool,
}

/// What the host is doing.
enum Stage {
    /// Moves data, from this byte of the disk on.
    Move { pieces: Pieces<'static>, offset: u64 },
    /// Makes a hole, or zeros.
    Range { means: Means, offset: u64, len: u64 },
    /// Puts what was written on stable storage.
    Settle,
}

impl<M: Mem> Slot<M> {
    /// What is to be done first; or the end, if that is nothing.
    pub fn new(job: Job<M>, disk: &RawDisk) -> Result<Self, Done<M>> {
        match first(&job, disk) {
            Ok(Some(stage)) => Ok(Self { job, stage, tries: 0, given_up: false }),
            Ok(None) => Err(Done { job, result: Ok(()) }),
            Err(error) => Err(Done { job, result: Err(error) }),
        }
    }

    pub fn into_job(self) -> Job<M> {
        self.job
    }

    /// For the ring. It refers to what the slot keeps.
    pub fn entry(&self, disk: &RawDisk) -> Entry {
        match &self.stage {
            Stage::Move { pieces, offset } => {
                let file = Fixed(if disk.is_direct(*offset, pieces) { DIRECT } else { BUFFERED });
                let reads = matches!(self.job.operation, Operation::Read { .. });
                match (pieces.rest(), reads) {
                    ([one], true) => {
                        let len = u32::try_from(one.iov_len).unwrap_or(u32::MAX);
                        opcode::Read::new(file, one.iov_base.cast(), len).offset(*offset).build()
                    }
                    ([one], false) => {
                        let len = u32::try_from(one.iov_len).unwrap_or(u32::MAX);
                        opcode::Write::new(file, one.iov_base.cast(), len).offset(*offset).build()
                    }
                    (some, true) => {
                        opcode::Readv::new(file, some.as_ptr(), some.len() as u32).offset(*offset).build()
                    }
                    (some, false) => {
                        opcode::Writev::new(file, some.as_ptr(), some.len() as u32).offset(*offset).build()
                    }
                }
            }
            Stage::Range { means, offset, len } => {
                let mode = means.mode().map_or(0, |mode| mode.bits() as i32);
                opcode::Fallocate::new(Fixed(BUFFERED), *len).offset(*offset).mode(mode).build()
            }
            Stage::Settle => opcode::Fsync::new(Fixed(BUFFERED)).flags(FsyncFlags::DATASYNC).build(),
        }
    }

    /// The host has ended an operation. `None` if another is to follow.
    pub fn step(&mut self, disk: &RawDisk, result: i32) -> Option<io::Result<()>> {
        let error = (result < 0).then(|| io::Error::from_raw_os_error(-result));
        if let Some(libc::EINTR | libc::EAGAIN | libc::ECANCELED) =
            error.as_ref().and_then(io::Error::raw_os_error)
            && self.tries < MAX_TRIES
        {
            self.tries += 1;
            return None;
        }
        match (&mut self.stage, error) {
            (Stage::Move { .. }, Some(error)) => Some(Err(error)),
            (Stage::Move { .. }, None) if result == 0 => Some(Err(io::ErrorKind::UnexpectedEof.into())),
            (Stage::Move { pieces, offset }, None) => {
                pieces.advance(result.unsigned_abs() as usize);
                *offset = offset.saturating_add(result.unsigned_abs().into());
                if pieces.is_empty() { self.settle(disk) } else { None }
            }
            (Stage::Range { means, offset, len }, Some(error)) => match disk.ranges().after(*means, &error) {
                None => Some(Err(error)),
                Some(_) if matches!(self.job.operation, Operation::Discard { .. }) => Some(Ok(())),
                Some(Means::Write) => {
                    self.stage = Stage::Move { pieces: Pieces::zeros(*len), offset: *offset };
                    None
                }
                Some(other) => {
                    *means = other;
                    None
                }
            },
            (Stage::Range { .. }, None) => self.settle(disk),
            (Stage::Settle, Some(error)) => {
                disk.has_lost();
                Some(Err(error))
            }
            (Stage::Settle, None) => Some(Ok(())),
        }
    }

    /// All is written. Is it to be on stable storage too?
    fn settle(&mut self, disk: &RawDisk) -> Option<io::Result<()>> {
        match self.job.operation {
            Operation::Write { through: true, .. } | Operation::WriteZeroes { through: true, .. } => {
                if let Err(error) = disk.trust() {
                    return Some(Err(error));
                }
                self.stage = Stage::Settle;
                None
            }
            _ => Some(Ok(())),
        }
    }
}

/// What a job begins with; `None` if there is nothing to be done.
fn first<M: Mem>(job: &Job<M>, disk: &RawDisk) -> Result<Option<Stage>, EngineError> {
    let stage = match job.operation {
        Operation::Read { len: 0, .. } | Operation::Write { len: 0, .. } => return Ok(None),
        Operation::Read { offset, .. } | Operation::Write { offset, .. } => {
            Stage::Move { pieces: lasting(Pieces::of(job)?), offset }
        }
        Operation::Flush => {
            disk.trust()?;
            Stage::Settle
        }
        Operation::Discard { offset, len } => {
            let means = Means::Hole;
            return Ok(disk.ranges().can(means).then_some(Stage::Range { means, offset, len }));
        }
        Operation::WriteZeroes { offset, len, unmap, .. } => match disk.ranges().best(unmap) {
            Means::Write => Stage::Move { pieces: Pieces::zeros(len), offset },
            means => Stage::Range { means, offset, len },
        },
    };
    Ok(Some(stage))
}

#[allow(unsafe_code)]
fn lasting(pieces: Pieces<'_>) -> Pieces<'static> {
    // SAFETY: they go into the slot of the job that they were made of, whose `memory` keeps them mapped, and leave it only with that.
    unsafe { pieces.forget_life_time() }
}
