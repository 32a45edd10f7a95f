use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

/// The most pieces that one system call takes (IOV_MAX).
const MAX_PIECES: usize = 1024;

/// Fills `to` from the file, from `offset` on.
pub(crate) fn read_at<B: BitmapSlice>(
    file: &File,
    offset: u64,
    to: &[VolatileSlice<'_, B>],
) -> io::Result<()> {
    transfer(
        offset,
        to,
        |iov, count, at| {
            // SAFETY: `transfer` hands over `count` pieces of guest memory that are mapped writable and stay so for the call.
            // No reference leads there: guest memory is only ever reached through volatile slices.
            unsafe { libc::preadv(file.as_raw_fd(), iov, count, at) }
        },
        |slice, at, len| slice.bitmap().mark_dirty(at, len),
    )
}

/// Writes `from` to the file, from `offset` on.
pub(crate) fn write_at<B: BitmapSlice>(
    file: &File,
    offset: u64,
    from: &[VolatileSlice<'_, B>],
) -> io::Result<()> {
    transfer(
        offset,
        from,
        |iov, count, at| {
            // SAFETY: as above; the kernel only reads.
            unsafe { libc::pwritev(file.as_raw_fd(), iov, count, at) }
        },
        |_, _, _| (),
    )
}

/// Calls until every piece was moved; the host may move less than asked. `moved` hears of each part of a slice that was.
fn transfer<B: BitmapSlice>(
    offset: u64,
    slices: &[VolatileSlice<'_, B>],
    call: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> libc::ssize_t,
    moved: impl Fn(&VolatileSlice<'_, B>, usize, usize),
) -> io::Result<()> {
    let mut offset = offset;
    // Where to go on: bytes of the first slice that were moved already.
    let (mut rest, mut skip) = (slices, 0);
    loop {
        while let Some((first, others)) = rest.split_first()
            && skip >= first.len()
        {
            (rest, skip) = (others, 0);
        }
        if rest.is_empty() {
            return Ok(());
        }
        let done = once(offset, rest, skip, &call)?;
        offset = offset.saturating_add(done as u64);
        advance(&mut rest, &mut skip, done, &moved);
    }
}

/// One system call, not interrupted.
fn once<B: BitmapSlice>(
    offset: u64,
    slices: &[VolatileSlice<'_, B>],
    skip: usize,
    call: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> libc::ssize_t,
) -> io::Result<usize> {
    let too_far = || io::Error::from(io::ErrorKind::InvalidInput);
    let at = libc::off_t::try_from(offset).map_err(|_| too_far())?;
    // The guards keep the pieces mapped until they are dropped, after the call.
    let guards: Vec<_> = slices.iter().take(MAX_PIECES).map(|s| (s.ptr_guard_mut(), s.len())).collect();
    let iov: Vec<libc::iovec> = guards
        .iter()
        .enumerate()
        .map(|(n, (guard, len))| {
            let skip = if n == 0 { skip.min(*len) } else { 0 };
            libc::iovec { iov_base: guard.as_ptr().wrapping_add(skip).cast(), iov_len: len - skip }
        })
        .collect();
    let count = libc::c_int::try_from(iov.len()).map_err(|_| too_far())?;
    loop {
        let done = call(iov.as_ptr(), count, at);
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

fn advance<'a, 'b, B: BitmapSlice>(
    rest: &mut &'a [VolatileSlice<'b, B>],
    skip: &mut usize,
    done: usize,
    moved: impl Fn(&VolatileSlice<'b, B>, usize, usize),
) {
    let mut done = done;
    while let Some((first, others)) = rest.split_first() {
        let now = done.min(first.len().saturating_sub(*skip));
        moved(first, *skip, now);
        done -= now;
        if done == 0 {
            *skip += now;
            return;
        }
        (*rest, *skip) = (others, 0);
    }
}

#[cfg(test)]
mod tests;
