use super::{RamRegion, shared_file};
use rustix::fs::FallocateFlags;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use vm_memory::bitmap::Bitmap;

/// Discards whole pages that lie in the region.
pub(super) fn discard(region: &RamRegion, offset: u64, len: u64) -> std::io::Result<()> {
    let (at, size) = (offset as usize, len as usize);
    if let Some(file) = shared_file(region) {
        // Dropping pages of a shared mapping would only unmap them: the hole is made in the file.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file.file(), flags, file.start() + offset, len)?;
    } else if region.get_mmap().file_offset().is_some() {
        // Dropping pages of a private mapping would bring the file's content back: anonymous memory takes their place.
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: as below; the new mapping replaces a part of the region's own and has its protection, and the region
        // unmaps its whole range in the end, whatever it is made of.
        unsafe {
            let start = region.as_ptr().add(at);
            rustix::mm::mmap_anonymous(start.cast(), size, ProtFlags::READ | ProtFlags::WRITE, flags)?;
        }
    } else {
        // SAFETY: the caller checked that offset and length lie in the region's mapping, which lives as long as the
        // region; Rust holds no references into guest memory, so zeros may appear there at any time.
        unsafe {
            let start = region.as_ptr().add(at);
            rustix::mm::madvise(start.cast(), size, Advice::LinuxDontNeed)?;
        }
    }
    region.get_mmap().bitmap().mark_dirty(at, size);
    Ok(())
}
