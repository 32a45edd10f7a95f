use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// What came of asking for a lock.
pub(crate) enum Lock {
    /// It is ours until the file is closed.
    Taken,
    /// Somebody else has it.
    Busy,
}

/// Takes a lock on the whole file for as long as it is open: alone if `exclusive`, else together with other readers.
pub(crate) fn lock(file: &File, exclusive: bool) -> io::Result<Lock> {
    let kind = if exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
    // A start and a length of 0 mean all of it, wherever it ends.
    let wanted = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open, and the kernel only reads the structure, which lives across the call.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &wanted) };
    if answer == 0 {
        return Ok(Lock::Taken);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(Lock::Busy),
        _ => Err(error),
    }
}
