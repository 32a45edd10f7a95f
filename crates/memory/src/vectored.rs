use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

/// The most pieces that one system call takes (IOV_MAX).
pub const MAX_PIECES: usize = 1024;

/// Pieces of guest and host memory, in order, whose bytes go to the host in one system call.
///
/// Guest memory that the host maps only while it is looked at (vm-memory's feature `xen`) is not for this.
///
/// ```
/// use drystone_memory::Gather;
/// use std::io::Read;
/// use std::os::fd::AsFd;
/// use vm_memory::{MmapRegion, VolatileMemory};
///
/// let region = MmapRegion::<()>::new(4096).unwrap();
/// region.get_slice(8, 5).unwrap().copy_from(b"stone");
/// let mut gather = Gather::default();
/// gather.push_host(b"dry ");
/// gather.push(&region.get_slice(8, 5).unwrap());
/// let (mut there, here) = std::io::pipe().unwrap();
/// assert_eq!(gather.write_to(here.as_fd()).unwrap(), 9);
/// let mut text = [0; 9];
/// there.read_exact(&mut text).unwrap();
/// assert_eq!(&text, b"dry stone");
/// ```
#[derive(Default)]
pub struct Gather<'a>(Pieces<'a>);

/// Pieces of guest and host memory, in order, that the host fills in one system call.
///
/// What is filled of guest memory is not marked dirty: whoever made the pieces knows where they are. Guest memory that the
/// host maps only while it is looked at (vm-memory's feature `xen`) is not for this.
///
/// It may have a spill: the last piece, wherever others are added, for what finds no room in them.
#[derive(Default)]
pub struct Scatter<'a> {
    pieces: Pieces<'a>,
    /// Bytes of the spill; 0 if there is none.
    spill: usize,
}

#[derive(Default)]
struct Pieces<'a> {
    iov: Vec<libc::iovec>,
    bytes: usize,
    memory: PhantomData<&'a ()>,
}

// SAFETY: addresses of memory that any thread may reach, that is mapped for 'a; to guest memory no reference leads, and that
// of the host is borrowed for 'a: shared if it is only read, exclusively if it is filled.
unsafe impl Send for Pieces<'_> {}

/// As writev(2), for a socket.
///
/// # Safety
/// As for writev(2).
unsafe extern "C" fn send(fd: libc::c_int, pieces: *const libc::iovec, count: libc::c_int) -> libc::ssize_t {
    // SAFETY: all zeros are a message without address, control data and pieces.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.cast_mut();
    message.msg_iovlen = count as _;
    // SAFETY: what the caller has promised.
    unsafe { libc::sendmsg(fd, &message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) }
}

impl<'a> Pieces<'a> {
    fn push(&mut self, base: *mut u8, len: usize) {
        self.insert(self.iov.len(), base, len);
    }

    fn insert(&mut self, at: usize, base: *mut u8, len: usize) {
        if len > 0 {
            self.iov.insert(at, libc::iovec { iov_base: base.cast(), iov_len: len });
            self.bytes = self.bytes.saturating_add(len);
        }
    }

    /// Empty, with the room that it has.
    fn recycle<'b>(mut self) -> Pieces<'b> {
        self.iov.clear();
        Pieces { iov: self.iov, bytes: 0, memory: PhantomData }
    }

    fn remove(&mut self, pieces: Range<usize>) {
        for piece in self.iov.drain(pieces) {
            self.bytes = self.bytes.saturating_sub(piece.iov_len);
        }
    }

    /// Without the first `skip` bytes.
    fn after(&self, skip: usize) -> impl Iterator<Item = VolatileSlice<'_>> {
        let mut skip = skip;
        self.iov.iter().filter_map(move |piece| {
            let from = skip.min(piece.iov_len);
            skip -= from;
            let base = piece.iov_base.cast::<u8>().wrapping_add(from);
            // SAFETY: a part of a piece, which is mapped for 'a, and that is longer than this borrow.
            (from < piece.iov_len).then(|| unsafe { VolatileSlice::new(base, piece.iov_len - from) })
        })
    }

    fn copy_to(&self, skip: usize, out: &mut [u8]) -> usize {
        let mut done = 0;
        for piece in self.after(skip) {
            let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) else { break };
            done += piece.copy_to(rest);
        }
        done
    }

    fn call(
        &self,
        call: unsafe extern "C" fn(libc::c_int, *const libc::iovec, libc::c_int) -> libc::ssize_t,
        fd: BorrowedFd<'_>,
    ) -> io::Result<usize> {
        let count = self.iov.len().min(MAX_PIECES) as libc::c_int;
        loop {
            // SAFETY: the descriptor is open, and the kernel is given `count` pieces that are mapped for as long as the call takes;
            // what it fills is guest memory, to which no reference leads, or memory that is borrowed exclusively.
            let done = unsafe { call(fd.as_raw_fd(), self.iov.as_ptr(), count) };
            if done >= 0 {
                return Ok(done.unsigned_abs());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

impl<'a> Gather<'a> {
    /// Adds a piece of guest memory. Empty ones are left out, here and elsewhere.
    pub fn push<B: BitmapSlice>(&mut self, slice: &VolatileSlice<'a, B>) {
        self.0.push(slice.ptr_guard().as_ptr().cast_mut(), slice.len());
    }

    /// Adds bytes of the host's.
    pub fn push_host(&mut self, bytes: &'a [u8]) {
        self.0.push(bytes.as_ptr().cast_mut(), bytes.len());
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// In how many pieces.
    pub fn pieces(&self) -> usize {
        self.0.iov.len()
    }

    /// The same room for other pieces.
    pub fn recycle<'b>(self) -> Gather<'b> {
        Gather(self.0.recycle())
    }

    /// Adds what `other` has after its first `skip` bytes.
    pub fn push_rest(&mut self, other: &Gather<'a>, skip: usize) {
        other.0.after(skip).for_each(|piece| self.0.push(piece.ptr_guard().as_ptr().cast_mut(), piece.len()));
    }

    /// Copies what lies after the first `skip` bytes to `out`, as far as it goes. Returns how much that was.
    pub fn copy_to(&self, skip: usize, out: &mut [u8]) -> usize {
        self.0.copy_to(skip, out)
    }

    /// Writes to a file, a socket or a device (writev(2)), up to [`MAX_PIECES`] pieces. Returns how many bytes were written.
    ///
    /// # Errors
    /// What the host says; never that it was interrupted.
    pub fn write_to(&self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        self.0.call(libc::writev, fd)
    }

    /// Sends to a connected socket (sendmsg(2)) without waiting, up to [`MAX_PIECES`] pieces. Returns how many bytes were sent. A peer
    /// that is gone is an error, and no signal.
    ///
    /// # Errors
    /// What the host says; never that it was interrupted.
    pub fn send_to(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.0.call(send, socket)
    }
}

impl<'a> Scatter<'a> {
    /// Adds a piece of guest memory. Empty ones are left out, here and elsewhere.
    pub fn push<B: BitmapSlice>(&mut self, slice: &VolatileSlice<'a, B>) {
        self.pieces.insert(self.pieces(), slice.ptr_guard_mut().as_ptr(), slice.len());
    }

    /// Adds bytes of the host's.
    pub fn push_host(&mut self, bytes: &'a mut [u8]) {
        self.pieces.insert(self.pieces(), bytes.as_mut_ptr(), bytes.len());
    }

    /// What finds no room elsewhere goes to `spill`. It must have none yet.
    pub fn set_spill(&mut self, spill: &'a mut [u8]) {
        self.pieces.insert(self.pieces.iov.len(), spill.as_mut_ptr(), spill.len());
        self.spill = spill.len();
    }

    /// How many bytes it has room for, without the spill.
    pub fn bytes(&self) -> usize {
        self.pieces.bytes.saturating_sub(self.spill)
    }

    /// In how many pieces, without the spill.
    pub fn pieces(&self) -> usize {
        self.pieces.iov.len().saturating_sub(usize::from(self.spill > 0))
    }

    /// Without its first `pieces` pieces from now on.
    pub fn remove_front(&mut self, pieces: usize) {
        self.pieces.remove(0..pieces.min(self.pieces()));
    }

    /// The same room for other pieces.
    pub fn recycle<'b>(self) -> Scatter<'b> {
        Scatter { pieces: self.pieces.recycle(), spill: 0 }
    }

    /// Copies `data` to what lies after the first `skip` bytes, as far as there is room. Returns how much that was.
    pub fn copy_from(&mut self, skip: usize, data: &[u8]) -> usize {
        let mut rest = data;
        for piece in self.pieces.after(skip) {
            let Some((now, later)) = rest.split_at_checked(piece.len().min(rest.len())) else { break };
            piece.copy_from(now);
            rest = later;
        }
        data.len() - rest.len()
    }

    /// Copies what lies after the first `skip` bytes to `out`, as far as it goes. Returns how much that was.
    pub fn copy_to(&self, skip: usize, out: &mut [u8]) -> usize {
        self.pieces.copy_to(skip, out)
    }

    /// Reads from a file, a socket or a device (readv(2)), into up to [`MAX_PIECES`] pieces. Returns how many bytes were read.
    ///
    /// # Errors
    /// What the host says; never that it was interrupted.
    pub fn read_from(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        self.pieces.call(libc::readv, fd)
    }
}

#[cfg(test)]
mod tests;
