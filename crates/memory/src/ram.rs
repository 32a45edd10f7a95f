use crate::{DirtyBitmap, Layout, RamRange};

mod content;
mod discard;
use rustix::fs::{MemfdFlags, SealFlags};
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend,
    GuestMemoryMmap, GuestMemoryRegion, GuestRegionCollection, GuestRegionMmap, MmapRegion,
};

const PAGE: u64 = 4096;

/// One mapped range of guest RAM. Everything written through it is marked in its bitmap, one bit a 4 KiB page.
pub type RamRegion = GuestRegionMmap<DirtyBitmap>;
/// The ranges of one moment.
pub type RamMap = GuestMemoryMmap<DirtyBitmap>;
/// Guest RAM as devices, vCPUs and loaders hold it: a snapshot of the ranges is taken per use, so that ranges can
/// come and go.
pub type RamView = GuestMemoryAtomic<RamMap>;

/// What host memory guest RAM is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Backing {
    /// Private anonymous memory.
    #[default]
    Anonymous,
    /// A sealed memory file, which other processes can map (vhost-user) and the host can list.
    Memfd,
}

/// Advice to the host on huge pages (madvise(2); kernel document admin-guide/mm/transhuge).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HugePages {
    /// As the host is set.
    #[default]
    Host,
    /// Use them where possible: fewer TLB misses, coarser memory use.
    Always,
    /// Do not use them.
    Never,
}

/// How guest RAM is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RamConfig {
    /// What it is made of.
    pub backing: Backing,
    /// Advice on huge pages.
    pub huge_pages: HugePages,
}

/// What could not be done with guest memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The host cannot give that much.
    #[error("guest memory: cannot map {len} bytes at {base:#x}: {cause}")]
    Map {
        /// Guest-physical address of the range.
        base: u64,
        /// Its length in bytes.
        len: u64,
        /// What the host said.
        cause: String,
    },
    /// The memory file cannot be made.
    #[error("guest memory: cannot create a memory file of {len} bytes: {cause}")]
    File {
        /// Its length in bytes.
        len: u64,
        /// What the host said.
        cause: std::io::Error,
    },
    /// The host refused advice or a discard.
    #[error("guest memory: cannot {attempt} {start:#x}..{end:#x}: {cause}")]
    Advise {
        /// What was tried.
        attempt: &'static str,
        /// First guest-physical address.
        start: u64,
        /// Where it ends.
        end: u64,
        /// What the host said.
        cause: std::io::Error,
    },
    /// A file cannot be guest RAM.
    #[error("guest memory: its file has {found} bytes, {wanted} are wanted")]
    FileSize {
        /// Its length in bytes.
        found: u64,
        /// The length of RAM.
        wanted: u64,
    },
    /// A file cannot be read.
    #[error("guest memory: cannot read its file: {0}")]
    ReadFile(std::io::Error),
    /// A range that is not whole pages of RAM.
    #[error("guest memory: {start:#x}..{end:#x} is not whole pages of RAM")]
    Range {
        /// First guest-physical address.
        start: u64,
        /// Where it ends.
        end: u64,
    },
}

/// The pages of one range that were written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirtyPages {
    /// Guest-physical address of the range.
    pub base: u64,
    /// Bit `n % 64` of word `n / 64` is page `n` of 4 KiB of the range.
    pub bitmap: Vec<u64>,
}

/// The RAM of one virtual machine: host memory at the addresses of a [`Layout`], all zeros at first, and populated
/// by the host as it is touched.
#[derive(Clone)]
pub struct GuestRam {
    view: RamView,
}

impl GuestRam {
    /// Maps host memory for all of `layout`'s RAM.
    ///
    /// # Errors
    /// [`MemoryError::Map`] or [`MemoryError::File`] when the host cannot give that much, [`MemoryError::Advise`] when
    /// it refuses the advice on huge pages.
    pub fn new(layout: &Layout, config: &RamConfig) -> Result<Self, MemoryError> {
        let source = match config.backing {
            Backing::Anonymous => Source::Nothing,
            Backing::Memfd => Source::Shared(Arc::new(memory_file(layout.ram_size())?)),
        };
        Self::map(layout, config, &source)
    }

    /// RAM whose content is that of `file`, which holds the ranges of `layout` one after the other. [`Backing::Anonymous`] maps it
    /// privately: nothing is read before it is touched, the host's page cache is shared with whoever else maps the file, and what
    /// is written stays here. The file must then keep its length, or a guest that touches what is gone ends the process (SIGBUS);
    /// unlinking it is fine. [`Backing::Memfd`] copies all of it.
    ///
    /// # Errors
    /// [`MemoryError::FileSize`] unless the file is as long as RAM, [`MemoryError::ReadFile`], and as [`new`](Self::new).
    pub fn from_file(layout: &Layout, config: &RamConfig, file: File) -> Result<Self, MemoryError> {
        let (found, wanted) = (file.metadata().map_err(MemoryError::ReadFile)?.len(), layout.ram_size());
        if found != wanted {
            return Err(MemoryError::FileSize { found, wanted });
        }
        let source = match config.backing {
            Backing::Anonymous => Source::Private(Arc::new(file)),
            Backing::Memfd => {
                let shared = memory_file(wanted)?;
                content::copy(&file, &shared).map_err(MemoryError::ReadFile)?;
                Source::Shared(Arc::new(shared))
            }
        };
        Self::map(layout, config, &source)
    }

    fn map(layout: &Layout, config: &RamConfig, source: &Source) -> Result<Self, MemoryError> {
        let mut regions = Vec::new();
        let mut offset = 0;
        for range in layout.ram() {
            regions.push(Arc::new(map(range, source, offset, config.huge_pages)?));
            offset += range.len;
        }
        let map = GuestRegionCollection::from_arc_regions(regions).map_err(|e| MemoryError::Map {
            base: 0,
            len: layout.ram_size(),
            cause: e.to_string(),
        })?;
        Ok(Self { view: RamView::new(map) })
    }

    /// The view for devices, vCPUs and loaders.
    pub fn view(&self) -> RamView {
        self.view.clone()
    }

    /// The ranges of this moment, for a hypervisor to map.
    pub fn regions(&self) -> Vec<Arc<RamRegion>> {
        // The collection lends its regions only by reference; taking each out of a copy gives the `Arc`.
        let map = self.view.memory();
        map.iter()
            .filter_map(|r| map.remove_region(r.start_addr(), r.len()).ok())
            .map(|(_, region)| region)
            .collect()
    }

    /// Gives the host back the memory of `range`: the guest reads zeros there from now on. Marks it as written.
    ///
    /// # Errors
    /// [`MemoryError::Range`] unless `range` is whole pages of RAM (it may span several ranges that touch),
    /// [`MemoryError::Advise`] when the host refuses; a part may then be discarded.
    pub fn discard(&self, range: Range<u64>) -> Result<(), MemoryError> {
        let (start, end) = (range.start, range.end);
        let bad = MemoryError::Range { start, end };
        if start >= end || !start.is_multiple_of(PAGE) || !end.is_multiple_of(PAGE) {
            return Err(bad);
        }
        let map = self.view.memory();
        let mut pieces = Vec::new();
        let mut at = start;
        while at < end {
            let Some(region) = map.find_region(GuestAddress(at)) else { return Err(bad) };
            let offset = at - region.start_addr().raw_value();
            let len = (end - at).min(region.len() - offset);
            pieces.push((region, offset, len));
            at += len;
        }
        for (region, offset, len) in pieces {
            discard::discard(region, offset, len).map_err(|cause| MemoryError::Advise {
                attempt: "discard",
                start,
                end,
                cause,
            })?;
        }
        Ok(())
    }

    /// Gives all of it back: RAM as it was at first.
    ///
    /// # Errors
    /// As [`discard`](Self::discard).
    pub fn discard_all(&self) -> Result<(), MemoryError> {
        for region in self.view.memory().iter() {
            let start = region.start_addr().raw_value();
            self.discard(start..start + region.len())?;
        }
        Ok(())
    }

    /// What was written through the [`view`](Self::view) since the last call (or the start), and forgets it. The guest's own
    /// writes are not in it: the hypervisor's dirty log has those.
    pub fn take_dirty(&self) -> Vec<DirtyPages> {
        let regions = self.regions();
        regions
            .iter()
            .map(|r| DirtyPages { base: r.start_addr().raw_value(), bitmap: r.get_mmap().bitmap().take() })
            .collect()
    }
}

/// A memory file of fixed size: nobody who is given it can cut it under the guest's feet.
fn memory_file(len: u64) -> Result<File, MemoryError> {
    let create = || -> rustix::io::Result<File> {
        let fd = rustix::fs::memfd_create("guest-ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, len)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(fd.into())
    };
    create().map_err(|e| MemoryError::File { len, cause: e.into() })
}

/// Where the content of RAM is.
enum Source {
    /// All zeros, in private anonymous memory.
    Nothing,
    /// In a file that is RAM.
    Shared(Arc<File>),
    /// In a file that is left as it is.
    Private(Arc<File>),
}

fn map(range: RamRange, source: &Source, offset: u64, huge: HugePages) -> Result<RamRegion, MemoryError> {
    let RamRange { base, len } = range;
    let failed = |cause: String| MemoryError::Map { base, len, cause };
    let size = usize::try_from(len).map_err(|e| failed(e.to_string()))?;
    let (kind, file) = match source {
        Source::Nothing => (libc_flags::ANONYMOUS, None),
        Source::Shared(file) => (libc_flags::SHARED, Some(file)),
        Source::Private(file) => (libc_flags::PRIVATE, Some(file)),
    };
    let file = file.map(|file| FileOffset::from_arc(file.clone(), offset));
    // MAP_NORESERVE: RAM may be larger than what the host has free; it is populated as the guest touches it.
    let flags = kind | libc_flags::NORESERVE;
    let bitmap = DirtyBitmap::new(size).map_err(|e| failed(e.to_string()))?;
    let mapping = build(size, bitmap, flags, file).map_err(|e| failed(e.to_string()))?;
    advise(&mapping, base, huge)?;
    GuestRegionMmap::new(mapping, GuestAddress(base)).ok_or_else(|| failed("the range overflows".into()))
}

fn build(
    size: usize,
    bitmap: DirtyBitmap,
    flags: i32,
    file: Option<FileOffset>,
) -> Result<MmapRegion<DirtyBitmap>, vm_memory::mmap::MmapRegionError> {
    let mut builder = MmapRegionBuilder::new_with_bitmap(size, bitmap)
        .with_mmap_prot(libc_flags::READ_WRITE)
        .with_mmap_flags(flags);
    if let Some(file) = file {
        builder = builder.with_file_offset(file);
    }
    builder.build()
}

/// The file that *is* a region's memory, as opposed to one that it began with.
fn shared_file(region: &RamRegion) -> Option<FileOffset> {
    let mapping = region.get_mmap();
    mapping.file_offset().filter(|_| mapping.flags() & libc_flags::SHARED != 0).cloned()
}

/// mmap(2)'s arguments in the integer form that vm-memory takes.
mod libc_flags {
    use rustix::mm::{MapFlags, ProtFlags};
    pub const READ_WRITE: i32 = ProtFlags::READ.union(ProtFlags::WRITE).bits() as i32;
    pub const SHARED: i32 = MapFlags::SHARED.bits() as i32;
    pub const PRIVATE: i32 = MapFlags::PRIVATE.bits() as i32;
    /// MAP_ANONYMOUS is not among rustix's flags, which has a function of its own for it (mman.h, x86 and arm64).
    pub const ANONYMOUS: i32 = PRIVATE | 0x20;
    pub const NORESERVE: i32 = MapFlags::NORESERVE.bits() as i32;
}

fn advise(mapping: &MmapRegion<DirtyBitmap>, base: u64, huge: HugePages) -> Result<(), MemoryError> {
    let advice = match huge {
        HugePages::Host => return Ok(()),
        HugePages::Always => rustix::mm::Advice::LinuxHugepage,
        HugePages::Never => rustix::mm::Advice::LinuxNoHugepage,
    };
    // SAFETY: the range is exactly the mapping, and this advice changes no content.
    let done = unsafe { rustix::mm::madvise(mapping.as_ptr().cast(), mapping.size(), advice) };
    let end = base + mapping.size() as u64;
    done.map_err(|e| MemoryError::Advise {
        attempt: "advise huge pages for",
        start: base,
        end,
        cause: e.into(),
    })
}

#[cfg(test)]
mod tests;
