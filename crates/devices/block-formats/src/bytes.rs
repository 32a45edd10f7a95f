//! Numbers in files, most significant byte first, and files that end too early.
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// `len` bytes from `offset` on; zeros past the end of the file.
pub(crate) fn read(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

/// The four bytes at `at`; zero if they are not all there.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |four| u32::from_be_bytes(*four))
}

/// The eight bytes at `at`; zero if they are not all there.
pub(crate) fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |eight| u64::from_be_bytes(*eight))
}

/// As a table of numbers of eight bytes.
pub(crate) fn table(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(8).map(|eight| be64(eight, 0))
}

/// How long a file or a block device is, in bytes. Nothing here uses the file's position.
pub(crate) fn len(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}
