use crate::{GrowError, Pieces, RawDisk};
use std::io;
use std::sync::Arc;

/// What a disk's content is kept in: a raw file ([`RawDisk`]), or a format that somebody else brings. Shared by every queue, and
/// called from several threads at once; each call returns when its work is done.
///
/// Offsets and lengths are bytes of the disk as the guest sees it, and multiples of 512.
pub trait Image: Send + Sync + 'static {
    /// The size of the disk now. What is no multiple of 512 is cut off.
    ///
    /// # Errors
    /// What the host said.
    fn size(&self) -> io::Result<u64>;

    /// Makes the disk `bytes` long; what is new reads as zeros.
    ///
    /// # Errors
    /// [`GrowError`]; it is as it was then.
    fn grow(&self, bytes: u64) -> Result<(), GrowError>;

    /// Fills `to` from byte `offset` on.
    ///
    /// # Errors
    /// What the host said; `UnexpectedEof` past the end. Some of it may have been filled.
    fn read(&self, offset: u64, to: &mut Pieces<'_>) -> io::Result<()>;

    /// Writes `from` to byte `offset` and what follows.
    ///
    /// # Errors
    /// What the host said. Some of it may have been written.
    fn write(&self, offset: u64, from: &mut Pieces<'_>) -> io::Result<()>;

    /// Returns when everything that was written is on stable storage.
    ///
    /// # Errors
    /// What the host said. Once this has failed it must fail for ever, if the host may have dropped what it could not write.
    fn flush(&self) -> io::Result<()>;

    /// Returns when what the image keeps in memory of its own, such as tables, is in its files for whoever reads them next: what they
    /// hold is whole then. It need not be on stable storage.
    ///
    /// # Errors
    /// What the host said. It is kept then, and may be tried again.
    fn settle(&self) -> io::Result<()> {
        Ok(())
    }

    /// The content of these bytes is not needed any more: a hint, which an image that cannot take it lets pass. What is read there
    /// afterwards is the old content or zeros.
    ///
    /// # Errors
    /// What the host said.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Makes these bytes zeros, by whatever is the fastest way. With `unmap` they need not keep their room on the host.
    ///
    /// # Errors
    /// What the host said. Some of it may be zeros.
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()>;

    /// Closes what is open as soon as what others are just doing with it has ended. Everything fails from now on.
    fn close(&self);

    /// The file in which every byte of the disk is at its own offset, for engines that do their I/O themselves. `None` for formats.
    fn raw(self: Arc<Self>) -> Option<Arc<RawDisk>> {
        None
    }
}
