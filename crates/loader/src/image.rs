use crate::error::KernelError;
use crate::protocol::{Entries, Protocol};
use crate::source::Source;
use crate::{bzimage, elf, map, sniff};
use drystone_memory::Layout;
use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// All headers that are looked at lie in the first KiB, but for the program headers of an ELF.
const HEAD_LEN: usize = 1024;
/// Memory is cleared in pieces of this size.
const CLEAR_LEN: usize = 4 << 10;

/// The two kinds of kernel that can be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// What distributions ship as vmlinuz: it unpacks itself.
    BzImage,
    /// A vmlinux, which boots faster than a bzImage and has no setup header; or another kernel with a PVH entry.
    Elf,
}

/// A kernel for x86-64 whose headers were found in order: Linux, or anything with a PVH entry. It keeps its file open, so that it can be loaded
/// again when the guest is reset, also when a file of another content has taken its name meanwhile.
#[derive(Debug)]
pub struct KernelImage {
    name: String,
    format: Format,
    entries: Entries,
    cmdline_max: usize,
    source: Mutex<Source>,
}

/// Where an image goes. Made from untrusted headers: `range` is not empty and begins at 1 MiB or above, `entries` and
/// `clear` are in it; whether there is RAM is for the caller to find out.
pub(crate) struct Plan {
    /// Where the first vCPU may start.
    pub entries: Entries,
    /// All that the kernel needs before it looks at its memory map.
    pub range: Range<u64>,
    /// What must read as zeros.
    pub clear: Vec<Range<u64>>,
    /// For the boot parameters.
    pub header: setup_header,
}

/// A kernel that lies in guest memory.
#[derive(Debug, Clone)]
pub struct LoadedKernel {
    name: String,
    entries: Entries,
    pub(crate) range: Range<u64>,
    pub(crate) header: setup_header,
}

impl KernelImage {
    /// Opens and checks the kernel at `path`. Its content decides its format.
    ///
    /// # Errors
    /// [`KernelError`]: `File`, `Format`, `Truncated`, `Corrupt` or `Unsupported`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, KernelError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        match Source::open(path) {
            Ok(source) => Self::new(source, name),
            Err(cause) => Err(KernelError::File { name, attempt: "open", cause }),
        }
    }

    /// Checks the kernel in an open file, whose position it will move. `name` is for errors.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_file(file: File, name: impl Into<String>) -> Result<Self, KernelError> {
        Self::new(Source::File(file), name.into())
    }

    /// Checks the kernel in `bytes`. `name` is for errors.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(bytes: impl Into<Arc<[u8]>>, name: impl Into<String>) -> Result<Self, KernelError> {
        Self::new(Source::bytes(bytes.into()), name.into())
    }

    fn new(mut source: Source, name: String) -> Result<Self, KernelError> {
        let (format, plan) = plan(&name, &mut source)?;
        let cmdline_max = cmdline_max(&plan.header);
        let entries = plan.entries;
        Ok(Self { name, format, entries, cmdline_max, source: Mutex::new(source) })
    }

    /// What errors call it: the path, if it was opened by one.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which kind of kernel it is.
    pub fn format(&self) -> Format {
        self.format
    }

    /// How it will be entered if `wanted` is asked for, or, with `None`, by what its content says: a Linux kernel by
    /// the Linux protocol, which takes the fewest steps to where both lead, anything else by PVH.
    ///
    /// # Errors
    /// [`KernelError::Protocol`] when it cannot be entered as `wanted`.
    pub fn protocol(&self, wanted: Option<Protocol>) -> Result<Protocol, KernelError> {
        choose(&self.name, &self.entries, wanted).map(|(protocol, _)| protocol)
    }

    /// All the protocols by which it can be entered.
    pub fn protocols(&self) -> impl Iterator<Item = Protocol> {
        let Entries { linux, pvh, says_linux: _ } = self.entries;
        linux.map(|_| Protocol::Linux).into_iter().chain(pvh.map(|_| Protocol::Pvh))
    }

    /// The longest command line that this kernel takes, in bytes without the zero byte at the end.
    pub fn cmdline_max(&self) -> usize {
        self.cmdline_max
    }

    /// Reads the kernel from its file straight into guest memory: a bzImage to its preferred address, an ELF to where
    /// its segments ask for, always between 1 MiB and the end of `layout`'s low RAM. May be called again.
    ///
    /// # Errors
    /// [`KernelError::DoesNotFit`], [`KernelError::Load`]; and those of [`open`](Self::open), should the file have
    /// been changed in place since. Guest memory then holds part of a kernel.
    pub fn load<M: GuestMemoryBackend>(
        &self,
        memory: &M,
        layout: &Layout,
    ) -> Result<LoadedKernel, KernelError> {
        let mut source = self.source();
        // Planned again, from what linux-loader is about to read: the file may have been written to.
        let (format, plan) = plan(&self.name, &mut source)?;
        self.check_fit(&plan.range, memory, layout)?;
        let loaded = match format {
            Format::BzImage => {
                BzImage::load(memory, Some(GuestAddress(plan.range.start)), &mut *source, None)
            }
            Format::Elf => Elf::load(memory, None, &mut *source, None),
        };
        loaded.map_err(|e| self.failed(e))?;
        plan.clear.iter().try_for_each(|range| clear(memory, range)).map_err(|e| self.failed(e))?;
        let name = self.name.clone();
        Ok(LoadedKernel { name, entries: plan.entries, range: plan.range, header: plan.header })
    }

    fn check_fit<M: GuestMemoryBackend>(
        &self,
        range: &Range<u64>,
        memory: &M,
        layout: &Layout,
    ) -> Result<(), KernelError> {
        let (start, end, ram_end) = (range.start, range.end, layout.low_ram_end());
        let in_memory = usize::try_from(end - start)
            .is_ok_and(|len| GuestMemoryBackend::check_range(memory, GuestAddress(start), len));
        if start < map::HIGH_MEMORY || end > ram_end || !in_memory {
            return Err(KernelError::DoesNotFit { name: self.name.clone(), start, end, ram_end });
        }
        Ok(())
    }

    fn failed(&self, cause: impl ToString) -> KernelError {
        KernelError::Load { name: self.name.clone(), cause: cause.to_string() }
    }

    fn source(&self) -> MutexGuard<'_, Source> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LoadedKernel {
    /// How it is to be entered, and where the first vCPU starts. `wanted` is as for [`KernelImage::protocol`].
    ///
    /// # Errors
    /// [`KernelError::Protocol`] when it cannot be entered as `wanted`.
    pub fn entry(&self, wanted: Option<Protocol>) -> Result<(Protocol, u64), KernelError> {
        choose(&self.name, &self.entries, wanted)
    }

    /// What the kernel occupies, with all that it needs before it looks at its memory map.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// The longest command line that this kernel takes, in bytes without the zero byte at the end.
    pub fn cmdline_max(&self) -> usize {
        cmdline_max(&self.header)
    }

    /// The highest address that the last byte of the initrd may have.
    pub fn initrd_addr_max(&self) -> u64 {
        self.header.initrd_addr_max.into()
    }
}

fn plan(name: &str, source: &mut Source) -> Result<(Format, Plan), KernelError> {
    let file = |attempt| move |cause| KernelError::File { name: name.into(), attempt, cause };
    let len = source.len().map_err(file("find its end"))?;
    let head = source.read_at(0, HEAD_LEN).map_err(file("read"))?;
    if bzimage::recognises(&head) {
        bzimage::plan(name, &head, len).map(|plan| (Format::BzImage, plan))
    } else if elf::recognises(&head) {
        elf::plan(name, &head, len, source).map(|plan| (Format::Elf, plan))
    } else {
        Err(KernelError::Format { name: name.into(), looks_like: sniff::looks_like(&head) })
    }
}

fn choose(name: &str, entries: &Entries, wanted: Option<Protocol>) -> Result<(Protocol, u64), KernelError> {
    entries.choose(wanted).map_err(|cause| KernelError::Protocol {
        name: name.into(),
        protocol: wanted.unwrap_or(Protocol::Linux),
        cause,
    })
}

/// The header's limit, or less: no header makes the command line leave its place in low memory.
fn cmdline_max(header: &setup_header) -> usize {
    u64::from(header.cmdline_size).min(map::CMDLINE_SPACE - 1) as usize
}

fn clear<M: GuestMemoryBackend>(memory: &M, range: &Range<u64>) -> Result<(), vm_memory::GuestMemoryError> {
    // Not on the stack, all of which whoever loads a kernel would have to touch.
    static ZEROS: [u8; CLEAR_LEN] = [0; CLEAR_LEN];
    let mut at = range.start;
    while at < range.end {
        let len = (range.end - at).min(CLEAR_LEN as u64);
        memory.write_slice(ZEROS.get(..len as usize).unwrap_or_default(), GuestAddress(at))?;
        at += len;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
