use super::{BLOCK, MemoryMap, in_parallel};
use crate::{OpenError, Progress};
use rustix::fs::SeekFrom;
use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How many blocks are looked at when a snapshot is opened.
const SOME: usize = 8;

/// Compares every block of `file`, at `path`, with the checksum in `map`.
pub(crate) fn verify(
    map: &MemoryMap,
    file: &File,
    path: &Path,
    threads: NonZeroUsize,
    progress: &Progress,
) -> Result<(), OpenError> {
    progress.begin(map.len());
    let zeros = super::map::zero_sum();
    let check = |block: usize, buffer: &mut [u8]| {
        if progress.is_cancelled() {
            return Err(OpenError::Cancelled);
        }
        let range = map.block(block);
        progress.advance(range.end - range.start);
        if map.sum(block) == zeros && is_hole(file, &range) {
            return Ok(());
        }
        check_block(map, block, file, path, buffer)
    };
    in_parallel(map.blocks(), threads, check).map(drop)
}

/// Compares a few blocks that are not zeros, from all over memory: enough to find a file that is another machine's or a later
/// state of this one, in a time that does not depend on its size.
pub(crate) fn check_some(map: &MemoryMap, file: &File, path: &Path) -> Result<(), OpenError> {
    let zeros = super::map::zero_sum();
    let data: Vec<_> = (0..map.blocks()).filter(|block| map.sum(*block) != zeros).collect();
    let step = data.len().div_ceil(SOME).max(1);
    let mut buffer = vec![0; BLOCK as usize];
    data.iter().step_by(step).try_for_each(|block| check_block(map, *block, file, path, &mut buffer))
}

/// Nothing is stored there. Where the file system does not say, there may be.
fn is_hole(file: &File, range: &Range<u64>) -> bool {
    match rustix::fs::seek(file, SeekFrom::Data(range.start)) {
        Ok(data) => data >= range.end,
        Err(e) => e == rustix::io::Errno::NXIO,
    }
}

fn check_block(
    map: &MemoryMap,
    block: usize,
    file: &File,
    path: &Path,
    buffer: &mut [u8],
) -> Result<(), OpenError> {
    let range = map.block(block);
    let bytes = buffer.get_mut(..(range.end - range.start) as usize).unwrap_or_default();
    file.read_exact_at(bytes, range.start).map_err(OpenError::io(path, "read guest memory"))?;
    if crc32fast::hash(bytes) == map.sum(block) {
        return Ok(());
    }
    Err(OpenError::Memory { path: path.into(), addr: map.address(range.start) })
}
