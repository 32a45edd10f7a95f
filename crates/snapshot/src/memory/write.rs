use super::{BLOCK, MemoryMap, PAGE, in_parallel};
use crate::{Progress, WriteError};
use drystone_memory::GuestRam;
use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

/// A block of the file, and the parts of it that may hold anything but zeros.
struct Job {
    block: usize,
    parts: Vec<Range<u64>>,
}

/// Writes what `ram` holds to `file`, at `path`, which is empty, and sets its length. Returns what was written, and how many bytes
/// of it are not zeros, counted in pages.
pub(crate) fn write(
    ram: &GuestRam,
    file: &File,
    path: &Path,
    threads: NonZeroUsize,
    progress: &Progress,
) -> Result<(MemoryMap, u64), WriteError> {
    let mut map = MemoryMap::of(ram);
    file.set_len(map.len()).map_err(WriteError::io(path, "make it as long as guest memory"))?;
    let jobs = jobs(&map, ram);
    progress.begin(jobs.iter().flat_map(|job| &job.parts).map(|part| part.end - part.start).sum());
    let view = ram.view().memory();

    let write = |n: usize, buffer: &mut [u8]| {
        let Some(job) = jobs.get(n) else { return Ok((0, 0, 0)) };
        if progress.is_cancelled() {
            return Err(WriteError::Cancelled);
        }
        let Range { start, end } = map.block(job.block);
        let buffer = buffer.get_mut(..(end - start) as usize).unwrap_or_default();
        buffer.fill(0);
        for part in &job.parts {
            let at = (part.start - start) as usize..(part.end - start) as usize;
            let addr = map.address(part.start);
            let read = view.read_slice(buffer.get_mut(at).unwrap_or_default(), GuestAddress(addr));
            read.map_err(|e| WriteError::Memory { addr, cause: e.to_string() })?;
            progress.advance(part.end - part.start);
        }
        let mut written = 0;
        for run in not_zeros(buffer) {
            let bytes = buffer.get(run.clone()).unwrap_or_default();
            let done = file.write_all_at(bytes, start + run.start as u64);
            done.map_err(WriteError::io(path, "write guest memory"))?;
            written += bytes.len() as u64;
        }
        Ok((job.block, crc32fast::hash(buffer), written))
    };
    let done = in_parallel(jobs.len(), threads, write)?;
    let mut data = 0;
    for (_, (block, sum, written)) in done {
        map.set_sum(block, sum);
        data += written;
    }
    Ok((map, data))
}

fn jobs(map: &MemoryMap, ram: &GuestRam) -> Vec<Job> {
    let mut jobs: Vec<Job> = Vec::new();
    for part in ram.populated().into_iter().flat_map(|part| map.in_file(part)) {
        let mut at = part.start;
        while at < part.end {
            let block = (at / BLOCK) as usize;
            let piece = at..part.end.min(map.block(block).end);
            at = piece.end;
            match jobs.last_mut() {
                Some(last) if last.block == block => last.parts.push(piece),
                _ => jobs.push(Job { block, parts: vec![piece] }),
            }
        }
    }
    jobs
}

/// The runs of pages that are not all zeros.
fn not_zeros(block: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (n, page) in block.chunks(PAGE as usize).enumerate() {
        if is_zero(page) {
            continue;
        }
        let start = n * PAGE as usize;
        let end = start + page.len();
        match runs.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

fn is_zero(page: &[u8]) -> bool {
    // In words that the compiler makes vectors of, and out at the first that is not.
    page.chunks(64).all(|line| line.iter().fold(0, |all, byte| all | byte) == 0)
}
