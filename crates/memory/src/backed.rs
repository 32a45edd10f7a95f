use vm_memory::bitmap::Bitmap;
use vm_memory::{Address, Bytes, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress};

/// A range of guest-physical memory that is backed by host memory, for a hypervisor to map.
///
/// A hypervisor keeps the `Arc` of what it has mapped, so the memory outlives the mapping.
///
/// # Safety
/// `host_addr()` points to `len()` bytes of mapped memory that stays mapped, at that address, for as long as the
/// value lives, and that Rust holds no references into: the guest may write there at any time.
pub unsafe trait Backed: Send + Sync {
    /// First guest-physical address; a multiple of the page size.
    fn guest_base(&self) -> u64;
    /// Length in bytes; a multiple of the page size, and not 0.
    fn len(&self) -> u64;
    /// Where the range begins in this process's address space.
    fn host_addr(&self) -> *mut u8;
    /// Copies bytes out, from `offset` bytes into the range. False, with `out` unspecified, if they are not all in it.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> bool;
    /// Copies bytes in, to `offset` bytes into the range. False, with nothing promised, if they do not all fit.
    fn write_at(&self, offset: u64, data: &[u8]) -> bool;
    /// Never true of a value that a hypervisor accepts.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

// SAFETY: the region owns its mapping (or was built, unsafely, by someone who promised the same), never moves it,
// and unmaps it on drop. vm-memory accesses it through volatile slices only.
unsafe impl<B: Bitmap + Send + Sync> Backed for GuestRegionMmap<B> {
    fn guest_base(&self) -> u64 {
        GuestMemoryRegion::start_addr(self).raw_value()
    }
    fn len(&self) -> u64 {
        GuestMemoryRegion::len(self)
    }
    fn host_addr(&self) -> *mut u8 {
        self.as_ptr()
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> bool {
        self.read_slice(out, MemoryRegionAddress(offset)).is_ok()
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> bool {
        self.write_slice(data, MemoryRegionAddress(offset)).is_ok()
    }
}
