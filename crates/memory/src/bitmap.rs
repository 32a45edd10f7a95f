use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::alloc::{Layout, handle_alloc_error};
use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use vm_memory::bitmap::{Bitmap, NewBitmap, RefSlice, WithBitmapSlice};

const BITS: usize = u64::BITS as usize;
/// A constant, so that no write has to divide.
const PAGE_SIZE: usize = 4096;

/// A bit for each page of 4 KiB of a region: set when something is written there, by whoever writes through `vm-memory`.
///
/// It means what vm-memory's `AtomicBitmap` means, and costs nothing until something is marked: that one writes zeros to all of
/// its 32 KiB a GiB when it is made, this one lies in anonymous memory that the host gives, a page for 128 MiB of RAM,
/// when a bit in it is set.
pub struct DirtyBitmap {
    words: NonNull<AtomicU64>,
    /// How many words there are.
    len: NonZeroUsize,
    pages: usize,
}

// SAFETY: the mapping belongs to this value alone and is only accessed through shared references to atomics.
unsafe impl Send for DirtyBitmap {}
// SAFETY: as above.
unsafe impl Sync for DirtyBitmap {}

impl DirtyBitmap {
    /// For `byte_size` bytes, of which the last page need not be whole. Nothing is marked.
    ///
    /// # Errors
    /// What the host says when it does not give the address space.
    pub fn new(byte_size: usize) -> io::Result<Self> {
        let pages = byte_size.div_ceil(PAGE_SIZE);
        let len = NonZeroUsize::new(pages.div_ceil(BITS)).unwrap_or(NonZeroUsize::MIN);
        let bytes = Self::bytes(len);
        let (protection, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new mapping, at an address that the host chooses.
        let mapping = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, protection, flags)? };
        let words = NonNull::new(mapping.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let bitmap = Self { words, len, pages };
        // One bit must not cost a huge page. A host without them refuses, and needs no advice.
        // SAFETY: exactly the mapping; the advice changes no content.
        let _ = unsafe { rustix::mm::madvise(mapping, bytes, Advice::LinuxNoHugepage) };
        Ok(bitmap)
    }

    fn bytes(len: NonZeroUsize) -> usize {
        len.get() * size_of::<AtomicU64>()
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: `words` points to `len` words of a mapping that lives as long as `self`, is zero at first, and to which
        // nobody has other references; the page alignment is more than an AtomicU64 needs.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.len.get()) }
    }

    /// How many pages it has bits for.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Whether page `page` is marked; never so of one that does not exist.
    pub fn is_marked(&self, page: usize) -> bool {
        let word = self.words().get(page / BITS).map_or(0, |w| w.load(Ordering::Acquire));
        word >> (page % BITS) & 1 == 1
    }

    /// Marks the pages of `len` bytes from `offset` on; those that do not exist are left out.
    #[inline]
    pub fn mark(&self, offset: usize, len: usize) {
        let Some(to_last) = len.checked_sub(1) else { return };
        let (first, last) = (offset / PAGE_SIZE, offset.saturating_add(to_last) / PAGE_SIZE);
        if first == last && first < self.pages {
            self.set(first / BITS, 1 << (first % BITS));
        } else {
            self.mark_pages(first, last.saturating_add(1).min(self.pages));
        }
    }

    fn mark_pages(&self, first: usize, end: usize) {
        let mut page = first;
        while page < end {
            // Up to the end of this word.
            let count = (BITS - page % BITS).min(end - page);
            self.set(page / BITS, (u64::MAX >> (BITS - count)) << (page % BITS));
            page += count;
        }
    }

    /// Also where the bits are set already: a reader that clears them now must see what was written before.
    #[inline]
    fn set(&self, word: usize, mask: u64) {
        if let Some(word) = self.words().get(word) {
            word.fetch_or(mask, Ordering::SeqCst);
        }
    }

    /// What is marked, and forgets it: bit `n % 64` of word `n / 64` is page `n`.
    pub fn take(&self) -> Vec<u64> {
        let mut taken = vec![0; self.pages.div_ceil(BITS)];
        for (to, word) in taken.iter_mut().zip(self.words()) {
            // Looking costs no memory; writing zeros over zeros would.
            if word.load(Ordering::Relaxed) != 0 {
                *to = word.swap(0, Ordering::SeqCst);
            }
        }
        taken
    }
}

impl Drop for DirtyBitmap {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; nothing refers to it any more. It can only fail on a wrong range.
        let _ = unsafe { rustix::mm::munmap(self.words.as_ptr().cast(), Self::bytes(self.len)) };
    }
}

impl fmt::Debug for DirtyBitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirtyBitmap").field("pages", &self.pages).finish_non_exhaustive()
    }
}

impl<'a> WithBitmapSlice<'a> for DirtyBitmap {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for DirtyBitmap {
    #[inline]
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.mark(offset, len);
    }
    fn dirty_at(&self, offset: usize) -> bool {
        self.is_marked(offset / PAGE_SIZE)
    }
    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

/// An empty one.
impl Default for DirtyBitmap {
    fn default() -> Self {
        Self::with_len(0)
    }
}

/// For vm-memory's own constructors, which allow no error: without address space the process ends, as it does when any
/// allocation fails. [`DirtyBitmap::new`] gives an error instead.
impl NewBitmap for DirtyBitmap {
    fn with_len(len: usize) -> Self {
        Self::new(len).unwrap_or_else(|_| handle_alloc_error(Layout::new::<AtomicU64>()))
    }
}

#[cfg(test)]
mod tests;
