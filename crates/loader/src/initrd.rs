use crate::LoadedKernel;
use crate::error::InitrdError;
use crate::map::HIGH_MEMORY;
use crate::source::Source;
use drystone_memory::Layout;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

const PAGE: u64 = 4096;

/// An initial RAM disk, or initramfs: the loader does not look inside. It keeps its file open, so that it can be
/// loaded again when the guest is reset.
#[derive(Debug)]
pub struct Initrd {
    name: String,
    source: Mutex<Source>,
}

impl Initrd {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// [`InitrdError::File`], or [`InitrdError::Empty`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, InitrdError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        match Source::open(path) {
            Ok(source) => Self::new(source, name),
            Err(cause) => Err(InitrdError::File { name, attempt: "open", cause }),
        }
    }

    /// Takes an open file, whose position it will move. `name` is for errors.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_file(file: File, name: impl Into<String>) -> Result<Self, InitrdError> {
        Self::new(Source::File(file), name.into())
    }

    /// Takes `bytes`. `name` is for errors.
    ///
    /// # Errors
    /// [`InitrdError::Empty`].
    pub fn from_bytes(bytes: impl Into<Arc<[u8]>>, name: impl Into<String>) -> Result<Self, InitrdError> {
        Self::new(Source::bytes(bytes.into()), name.into())
    }

    fn new(mut source: Source, name: String) -> Result<Self, InitrdError> {
        len(&mut source, &name)?;
        Ok(Self { name, source: Mutex::new(source) })
    }

    /// What errors call it: the path, if it was opened by one.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads it from its file straight into guest memory: page-aligned, as high as possible in `layout`'s low RAM and
    /// below the kernel's limit, over neither the kernel nor a range in `reserved`. Returns where it lies, to the
    /// byte. May be called again.
    ///
    /// # Errors
    /// [`InitrdError::DoesNotFit`], [`InitrdError::Load`]; [`InitrdError::Empty`] should the file have been cut
    /// meanwhile.
    pub fn load<M: GuestMemoryBackend>(
        &self,
        memory: &M,
        layout: &Layout,
        kernel: &LoadedKernel,
        reserved: &[Range<u64>],
    ) -> Result<Range<u64>, InitrdError> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let len = len(&mut source, &self.name)?;
        let limit = layout.low_ram_end().min(kernel.initrd_addr_max().saturating_add(1));
        let taken: Vec<_> = reserved.iter().cloned().chain([kernel.range()]).collect();
        let start = place(len, limit, &taken).map_err(|room| InitrdError::DoesNotFit {
            name: self.name.clone(),
            len,
            room,
            limit,
            kernel_start: kernel.range.start,
            kernel_end: kernel.range.end,
        })?;
        let failed = |cause: String| InitrdError::Load { name: self.name.clone(), cause };
        source.seek(SeekFrom::Start(0)).map_err(|e| failed(e.to_string()))?;
        let count = usize::try_from(len).map_err(|e| failed(e.to_string()))?;
        memory
            .read_exact_volatile_from(GuestAddress(start), &mut *source, count)
            .map_err(|e| failed(e.to_string()))?;
        Ok(start..start + len)
    }
}

fn len(source: &mut Source, name: &str) -> Result<u64, InitrdError> {
    let name = name.to_owned();
    match source.len() {
        Ok(0) => Err(InitrdError::Empty { name }),
        Ok(len) => Ok(len),
        Err(cause) => Err(InitrdError::File { name, attempt: "find its end", cause }),
    }
}

/// The highest page-aligned address from which `len` bytes below `limit` touch no page of `taken`; or else the size
/// of the largest gap.
fn place(len: u64, limit: u64, taken: &[Range<u64>]) -> Result<u64, u64> {
    let mut top = limit / PAGE * PAGE;
    let mut largest = 0;
    loop {
        // Of what begins below `top`, the range that reaches up highest bounds the gap below `top`.
        let bound = taken.iter().filter(|r| !r.is_empty() && r.start < top).max_by_key(|r| r.end);
        let floor =
            bound.map_or(0, |r| r.end).clamp(HIGH_MEMORY, top.max(HIGH_MEMORY)).next_multiple_of(PAGE);
        let room = top.saturating_sub(floor);
        if len <= room {
            return Ok((top - len) / PAGE * PAGE);
        }
        largest = largest.max(room);
        match bound {
            Some(range) => top = range.start / PAGE * PAGE,
            None => return Err(largest),
        }
    }
}

#[cfg(test)]
mod tests;
