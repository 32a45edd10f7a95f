use super::Shared;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use std::io::{self, IoSlice};
use std::sync::atomic::Ordering;

/// What is written where the host has no quicker way to make zeros.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl Shared {
    /// Makes these bytes zeros that have room, past the end of the file too.
    pub(super) fn write_zeroes(&self, offset: u64, len: u64) -> io::Result<()> {
        if !self.no_marks.load(Ordering::Relaxed) && !cfg!(test) {
            match self.allocate(FallocateFlags::ZERO_RANGE, offset, len) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                    self.no_marks.store(true, Ordering::Relaxed);
                }
                done => return Ok(done?),
            }
        }
        let mut done = 0;
        while done < len {
            let now = (len - done).min(ZEROS.len() as u64);
            let piece = ZEROS.get(..now as usize).unwrap_or(&ZEROS);
            self.write_all(&[IoSlice::new(piece)], offset + done)?;
            done += now;
        }
        Ok(())
    }

    /// Gives the room of these bytes back to the host, if it takes it: nothing is in them.
    pub fn punch(&self, offset: u64, len: u64) {
        #[cfg(test)]
        self.watch.punch(offset, len);
        let _ = self.allocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len);
    }

    fn allocate(&self, mode: FallocateFlags, offset: u64, len: u64) -> rustix::io::Result<()> {
        rustix::io::retry_on_intr(|| fallocate(&self.file, mode, offset, len))
    }
}
