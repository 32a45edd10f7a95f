use crate::{EngineError, Job};
use drystone_memory::Mem;
use std::marker::PhantomData;
use vm_memory::bitmap::BitmapSlice;
use vm_memory::{GuestMemory, VolatileSlice};

/// What is written where the host has no quicker way to make zeros: up to 1024 times in one system call.
const ZEROS_LEN: usize = 16 << 10;
/// The most pieces that one system call takes.
const MAX_PIECES: usize = 1024;
#[repr(align(4096))]
struct Zeros([u8; ZEROS_LEN]);
static ZEROS: Zeros = Zeros([0; ZEROS_LEN]);

/// Pieces of guest memory, in order, that data goes to or comes from. They are used up as data moves, and mapped for as long as they
/// are there.
///
/// What is written to them is not marked dirty: that is for whoever made them ([`Job::mark_filled`]). Guest memory that the host
/// maps only while it is looked at (vm-memory's feature `xen`) is not for this crate.
pub struct Pieces<'a> {
    iov: Vec<libc::iovec>,
    /// The first that is not all used up.
    next: usize,
    memory: PhantomData<&'a ()>,
}

// SAFETY: addresses of memory that any thread may reach, and that no reference leads to: guest memory is only ever reached through
// volatile slices, and the zeros are never written.
unsafe impl Send for Pieces<'_> {}

impl<'a> Pieces<'a> {
    /// Those of a job.
    ///
    /// # Errors
    /// [`EngineError::Memory`] if one is not in guest memory, or may not be used so.
    pub fn of<M: Mem>(job: &'a Job<M>) -> Result<Self, EngineError> {
        let outside = |_| EngineError::Memory;
        let mut pieces = Self::with_room(job.chain.readable().len().max(job.chain.writable().len()));
        for segment in job.segments() {
            let slices = job.memory.get_slices(segment.addr, segment.len as usize, job.access());
            for slice in slices.map_err(outside)? {
                pieces.push(&slice.map_err(outside)?);
            }
        }
        Ok(pieces)
    }

    /// These.
    pub fn from_slices<B: BitmapSlice>(slices: &[VolatileSlice<'a, B>]) -> Self {
        let mut pieces = Self::with_room(slices.len());
        slices.iter().for_each(|slice| pieces.push(slice));
        pieces
    }

    /// Zeros, to be written.
    pub(crate) fn zeros(len: u64) -> Pieces<'static> {
        let mut pieces = Pieces::with_room(usize::try_from(len.div_ceil(ZEROS_LEN as u64)).unwrap_or(0));
        let mut left = len;
        while left > 0 {
            let now = left.min(ZEROS_LEN as u64);
            let iov_base = (&raw const ZEROS.0).cast_mut().cast();
            pieces.iov.push(libc::iovec { iov_base, iov_len: now as usize });
            left -= now;
        }
        pieces
    }

    fn with_room(pieces: usize) -> Self {
        Self { iov: Vec::with_capacity(pieces), next: 0, memory: PhantomData }
    }

    fn push<B: BitmapSlice>(&mut self, slice: &VolatileSlice<'a, B>) {
        if !slice.is_empty() {
            let iov_base = slice.ptr_guard_mut().as_ptr().cast();
            self.iov.push(libc::iovec { iov_base, iov_len: slice.len() });
        }
    }

    /// Whether all is used up.
    pub fn is_empty(&self) -> bool {
        self.next >= self.iov.len()
    }

    /// For whoever keeps them beside the job that they were made of.
    ///
    /// # Safety
    /// They must not be used once their memory may be gone.
    pub(crate) unsafe fn forget_life_time(self) -> Pieces<'static> {
        let Self { iov, next, memory: _ } = self;
        Pieces { iov, next, memory: PhantomData }
    }

    /// Whether direct I/O takes them: every address a multiple of `memory`, every length of `lengths`.
    pub(crate) fn are_aligned(&self, memory: usize, lengths: usize) -> bool {
        let fits =
            |v: &libc::iovec| v.iov_base.addr().is_multiple_of(memory) && v.iov_len.is_multiple_of(lengths);
        self.iov.iter().skip(self.next).all(fits)
    }

    /// What is left, to be read and written.
    pub fn iter(&self) -> impl Iterator<Item = VolatileSlice<'_, ()>> {
        let all = self.iov.get(self.next..).unwrap_or_default();
        // SAFETY: each was a volatile slice of memory that is mapped for 'a, which is longer than this borrow; or the zeros, which are
        // made for writing to a disk only.
        all.iter().map(|v| unsafe { VolatileSlice::new(v.iov_base.cast(), v.iov_len) })
    }

    /// What is left, as far as one system call takes it (IOV_MAX).
    pub(crate) fn rest(&self) -> &[libc::iovec] {
        let rest = self.iov.get(self.next..).unwrap_or_default();
        rest.get(..MAX_PIECES).unwrap_or(rest)
    }

    /// The first `bytes` of what is left are used up.
    pub fn advance(&mut self, bytes: usize) {
        let mut bytes = bytes;
        while let Some(first) = self.iov.get_mut(self.next) {
            if bytes < first.iov_len {
                first.iov_base = first.iov_base.cast::<u8>().wrapping_add(bytes).cast();
                first.iov_len -= bytes;
                return;
            }
            bytes -= first.iov_len;
            self.next += 1;
        }
    }
}
