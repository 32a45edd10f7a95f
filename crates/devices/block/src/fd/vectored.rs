use super::Pieces;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

type Call = unsafe extern "C" fn(libc::c_int, *const libc::iovec, libc::c_int, libc::off_t) -> libc::ssize_t;

/// Fills `to` from the file, from `offset` on.
pub(crate) fn read_at(file: &File, offset: u64, to: &mut Pieces<'_>) -> io::Result<()> {
    transfer(libc::preadv, file, offset, to)
}

/// Writes `from` to the file, from `offset` on.
pub(crate) fn write_at(file: &File, offset: u64, from: &mut Pieces<'_>) -> io::Result<()> {
    transfer(libc::pwritev, file, offset, from)
}

/// Calls until every piece was moved; the host may move less than asked.
fn transfer(call: Call, file: &File, offset: u64, pieces: &mut Pieces<'_>) -> io::Result<()> {
    let mut offset = offset;
    while !pieces.is_empty() {
        let done = once(call, file, offset, pieces)?;
        offset = offset.saturating_add(done as u64);
        pieces.advance(done);
    }
    Ok(())
}

/// One system call, not interrupted.
fn once(call: Call, file: &File, offset: u64, pieces: &Pieces<'_>) -> io::Result<usize> {
    let too_far = || io::Error::from(io::ErrorKind::InvalidInput);
    let at = libc::off_t::try_from(offset).map_err(|_| too_far())?;
    let rest = pieces.rest();
    let count = libc::c_int::try_from(rest.len()).map_err(|_| too_far())?;
    loop {
        // SAFETY: the descriptor is open, and the kernel is given `count` pieces that stay mapped for the call, writable if they are
        // to be filled. No reference leads there: guest memory is only ever reached through volatile slices.
        let done = unsafe { call(file.as_raw_fd(), rest.as_ptr(), count, at) };
        if done > 0 {
            return Ok(done.unsigned_abs());
        }
        if done == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
