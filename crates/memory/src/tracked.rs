use std::ops::Range;
use vm_memory::bitmap::BitmapSlice;
use vm_memory::volatile_memory::Error;
use vm_memory::{ByteValued, Bytes, VolatileMemory, VolatileSlice};

/// Writes to the same so many bytes share a mark.
const NEAR: usize = 4096;
/// No page has this number.
const NOWHERE: usize = usize::MAX;

/// A piece of guest memory for many small accesses: what is written near to what was written before is marked dirty together with it.
///
/// A mark costs more than the write: it is a locked instruction. It comes late here, at the latest when this is dropped, and
/// never before what it stands for. So whoever copies dirty pages while it lives copies again what was written meanwhile, and
/// whoever waits until it is gone misses nothing.
///
/// ```
/// use drystone_memory::{DirtyBitmap, Tracked};
/// use vm_memory::{MmapRegion, VolatileMemory};
///
/// let region = MmapRegion::<DirtyBitmap>::new(8192).unwrap();
/// let mut tracked = Tracked::new(region.as_volatile_slice());
/// tracked.write(7_u32, 4100).unwrap();
/// assert_eq!(tracked.read::<u32>(4100).unwrap(), 7);
/// drop(tracked);
/// assert_eq!(region.bitmap().take(), [0b10]);
/// ```
pub struct Tracked<'a, B: BitmapSlice> {
    plain: VolatileSlice<'a>,
    bitmap: B,
    /// Written, and not marked yet.
    pending: Range<usize>,
    /// Where that lies, if all of it lies in one page.
    page: usize,
}

impl<'a, B: BitmapSlice> Tracked<'a, B> {
    /// Takes over from `slice`, which marks each access at once.
    pub fn new(slice: VolatileSlice<'a, B>) -> Self {
        let bitmap = slice.bitmap().clone();
        // SAFETY: the same bytes, for as long as they live, with the same volatile accesses; only marking is left to us.
        let plain = unsafe { VolatileSlice::new(slice.ptr_guard_mut().as_ptr(), slice.len()) };
        Self { plain, bitmap, pending: 0..0, page: NOWHERE }
    }

    /// Its size in bytes.
    #[allow(clippy::len_without_is_empty)]
    #[inline]
    pub fn len(&self) -> usize {
        self.plain.len()
    }

    /// Reads a value at byte `offset`. Not atomic.
    ///
    /// # Errors
    /// When it does not lie in here.
    #[inline]
    pub fn read<T: ByteValued>(&self, offset: usize) -> Result<T, Error> {
        Ok(self.plain.get_ref::<T>(offset)?.load())
    }

    /// Writes a value at byte `offset`. Not atomic.
    ///
    /// # Errors
    /// When it does not fit in here; nothing is written then.
    #[inline]
    pub fn write<T: ByteValued>(&mut self, value: T, offset: usize) -> Result<(), Error> {
        self.plain.get_ref::<T>(offset)?.store(value);
        self.wrote(offset, size_of::<T>());
        Ok(())
    }

    /// Copies bytes from `offset` on.
    ///
    /// # Errors
    /// When they do not all lie in here.
    pub fn read_slice(&self, out: &mut [u8], offset: usize) -> Result<(), Error> {
        self.plain.read_slice(out, offset)
    }

    /// Copies `data` to `offset` and what follows.
    ///
    /// # Errors
    /// When it does not all fit in here; some may have been written then.
    pub fn write_slice(&mut self, data: &[u8], offset: usize) -> Result<(), Error> {
        let written = self.plain.write_slice(data, offset);
        self.wrote(offset, data.len());
        written
    }

    /// `len` bytes from `offset` on, as they are: whoever writes there says so with [`wrote`](Self::wrote).
    ///
    /// # Errors
    /// When they do not all lie in here.
    #[inline]
    pub fn slice(&self, offset: usize, len: usize) -> Result<VolatileSlice<'a>, Error> {
        self.plain.subslice(offset, len)
    }

    /// Somebody else has written `len` bytes from `offset` on: the host, for example.
    #[inline]
    pub fn wrote(&mut self, offset: usize, len: usize) {
        let Some(last) = len.checked_sub(1).and_then(|n| offset.checked_add(n)) else { return };
        let page = offset / NEAR;
        if page == self.page && last / NEAR == page {
            self.pending = self.pending.start.min(offset)..self.pending.end.max(last.saturating_add(1));
        } else {
            self.mark();
            (self.pending, self.page) =
                (offset..last.saturating_add(1), if last / NEAR == page { page } else { NOWHERE });
        }
    }

    /// Marks what is written so far.
    pub fn mark(&mut self) {
        if !self.pending.is_empty() {
            self.bitmap.mark_dirty(self.pending.start, self.pending.len());
            (self.pending, self.page) = (0..0, NOWHERE);
        }
    }
}

impl<B: BitmapSlice> Drop for Tracked<'_, B> {
    fn drop(&mut self) {
        self.mark();
    }
}

#[cfg(test)]
mod tests;
