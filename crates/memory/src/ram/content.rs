//! Which parts of RAM hold anything.

use super::{GuestRam, PAGE, RamRegion, shared_file};
use rustix::fs::SeekFrom;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use vm_memory::{Address, FileOffset, GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion};

/// One entry of pagemap: eight bytes a page (kernel document admin-guide/mm/pagemap).
const ENTRY: usize = 8;
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// Entries that are read at a time.
const ENTRIES: usize = 8192;

impl GuestRam {
    /// The parts of RAM that may hold anything but zeros, in guest-physical addresses, in ascending order and apart from each
    /// other, in whole pages: all else reads as zeros, and has never been touched. It costs no memory to ask. Meaningful while
    /// nobody writes. Where the host does not say, all of a range is in it.
    pub fn populated(&self) -> Vec<Range<u64>> {
        let mut all = Vec::new();
        for region in self.view.memory().iter() {
            let base = region.start_addr().raw_value();
            let parts = populated(region).unwrap_or_else(|_| std::iter::once(0..region.len()).collect());
            all.extend(parts.into_iter().map(|part| base + part.start..base + part.end));
        }
        all
    }
}

/// In offsets from the region's start.
fn populated(region: &RamRegion) -> io::Result<Vec<Range<u64>>> {
    match (shared_file(region), region.get_mmap().file_offset()) {
        (Some(file), _) => data(&file, region.len()),
        (None, None) => mapped(region),
        // What was not touched here is as in the file.
        (None, Some(file)) => {
            let mut parts = data(file, region.len())?;
            parts.extend(mapped(region)?);
            Ok(union(parts))
        }
    }
}

/// The parts of a file that are not holes.
fn data(file: &FileOffset, len: u64) -> io::Result<Vec<Range<u64>>> {
    let (start, end) = (file.start(), file.start() + len);
    let mut parts = Vec::new();
    let mut at = start;
    while let Some(part) = next_data(file.file(), at, end)? {
        at = part.end;
        parts.push(part.start - start..part.end - start);
    }
    Ok(parts)
}

/// The first part of `file` between `at` and `end` that is not a hole, in whole pages.
fn next_data(file: &File, at: u64, end: u64) -> io::Result<Option<Range<u64>>> {
    if at >= end {
        return Ok(None);
    }
    let from = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(from) if from < end => from,
        Ok(_) | Err(rustix::io::Errno::NXIO) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let to = rustix::fs::seek(file, SeekFrom::Hole(from))?.min(end);
    Ok(Some(from / PAGE * PAGE..to.next_multiple_of(PAGE)))
}

/// The pages that this process has mapped, or swapped out.
fn mapped(region: &RamRegion) -> io::Result<Vec<Range<u64>>> {
    let pagemap = File::open("/proc/self/pagemap")?;
    let first = region.as_ptr() as u64 / PAGE;
    let pages = region.len() / PAGE;
    let mut buffer = vec![0; ENTRIES * ENTRY];
    let mut parts: Vec<Range<u64>> = Vec::new();
    let mut page = 0;
    while page < pages {
        let count = (pages - page).min(ENTRIES as u64);
        let bytes = buffer.get_mut(..count as usize * ENTRY).unwrap_or_default();
        pagemap.read_exact_at(bytes, (first + page) * ENTRY as u64)?;
        for (n, entry) in (page..).zip(bytes.chunks_exact(ENTRY)) {
            let entry = entry.try_into().map_or(0, u64::from_ne_bytes);
            if entry & (PRESENT | SWAPPED) != 0 {
                push(&mut parts, n * PAGE..(n + 1) * PAGE);
            }
        }
        page += count;
    }
    Ok(parts)
}

/// Appends `part`, which does not begin before the last one, and joins those that touch.
fn push(parts: &mut Vec<Range<u64>>, part: Range<u64>) {
    match parts.last_mut() {
        Some(last) if last.end >= part.start => last.end = last.end.max(part.end),
        _ => parts.push(part),
    }
}

fn union(mut parts: Vec<Range<u64>>) -> Vec<Range<u64>> {
    parts.sort_by_key(|part| part.start);
    let mut joined = Vec::new();
    parts.into_iter().for_each(|part| push(&mut joined, part));
    joined
}

/// Copies what is in `from` to the same place in `to`, which is as long and all holes.
pub(super) fn copy(from: &File, to: &File) -> io::Result<()> {
    const PIECE: u64 = 1 << 20;
    let mut buffer = vec![0; PIECE as usize];
    let end = from.metadata()?.len();
    let mut at = 0;
    while let Some(part) = next_data(from, at, end)? {
        at = part.start;
        while at < part.end {
            let len = (part.end - at).min(PIECE);
            let piece = buffer.get_mut(..len as usize).unwrap_or_default();
            from.read_exact_at(piece, at)?;
            to.write_all_at(piece, at)?;
            at += len;
        }
    }
    Ok(())
}
