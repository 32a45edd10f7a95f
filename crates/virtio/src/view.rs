use crate::{Fault, Seg};
use drystone_memory::{Gather, Mem, Scatter, Tracked};
use vm_memory::bitmap::{Bitmap, MS};
use vm_memory::{
    Address, ByteValued, Bytes, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryBackend,
    GuestMemoryError, GuestMemoryRegion, Permissions,
};

type Backend<M> = <<M as GuestAddressSpace>::M as GuestMemory>::PhysicalMemory;
type Open<'a, M> = Tracked<'a, MS<'a, Backend<M>>>;

/// Guest memory for the small accesses of one batch.
///
/// vm-memory resolves every access from scratch, which costs more than the access; a batch mostly stays in one
/// region. So the region that was hit last is kept open. With an IOMMU every access is translated, as ever. What is
/// written is marked dirty at the latest when this is dropped, which is before the lane can stand still.
pub struct View<'a, M: Mem> {
    memory: &'a M::M,
    /// The region that was hit last, and its guest-physical address.
    open: Option<(u64, Open<'a, M>)>,
}

impl<'a, M: Mem> View<'a, M> {
    /// No region is open yet.
    pub fn new(memory: &'a M::M) -> Self {
        Self { memory, open: None }
    }

    /// The open region and the offset of `addr..addr + len` in it.
    #[inline]
    fn find(&mut self, addr: GuestAddress, len: usize) -> Option<(&mut Open<'a, M>, usize)> {
        let offset = match self.offset(addr, len) {
            Some(offset) => offset,
            None => self.open(addr, len)?,
        };
        Some((&mut self.open.as_mut()?.1, offset))
    }

    /// Where it is in the region that is open.
    #[inline]
    fn offset(&self, addr: GuestAddress, len: usize) -> Option<usize> {
        let (start, open) = self.open.as_ref()?;
        let offset = usize::try_from(addr.0.checked_sub(*start)?).ok()?;
        (open.len().checked_sub(offset)? >= len).then_some(offset)
    }

    #[cold]
    fn open(&mut self, addr: GuestAddress, len: usize) -> Option<usize> {
        let region = self.memory.physical_memory()?.find_region(addr)?;
        self.open = Some((region.start_addr().raw_value(), Tracked::new(region.as_volatile_slice().ok()?)));
        self.offset(addr, len)
    }

    /// Reads a value. Not atomic, as `Bytes::read_obj`.
    ///
    /// # Errors
    /// [`Fault::Memory`] if it is not in guest memory.
    #[inline]
    pub fn read<T: ByteValued>(&mut self, addr: GuestAddress) -> Result<T, Fault> {
        if let Some((open, offset)) = self.find(addr, size_of::<T>()) {
            return Ok(open.read(offset).map_err(GuestMemoryError::from)?);
        }
        Ok(self.memory.read_obj(addr)?)
    }

    /// Writes a value and marks it dirty. Not atomic, as `Bytes::write_obj`.
    ///
    /// # Errors
    /// [`Fault::Memory`] if it is not in guest memory.
    #[inline]
    pub fn write<T: ByteValued>(&mut self, value: T, addr: GuestAddress) -> Result<(), Fault> {
        if let Some((open, offset)) = self.find(addr, size_of::<T>()) {
            return Ok(open.write(value, offset).map_err(GuestMemoryError::from)?);
        }
        Ok(self.memory.write_obj(value, addr)?)
    }

    /// Copies bytes out.
    ///
    /// # Errors
    /// [`Fault::Memory`] if they are not all in guest memory; some of `out` may have changed then.
    #[inline]
    pub fn read_slice(&mut self, out: &mut [u8], addr: GuestAddress) -> Result<(), Fault> {
        match self.find(addr, out.len()) {
            Some((open, offset)) => open.read_slice(out, offset).map_err(GuestMemoryError::from)?,
            None => self.memory.read_slice(out, addr)?,
        }
        Ok(())
    }

    /// Copies bytes in and marks them dirty.
    ///
    /// # Errors
    /// [`Fault::Memory`] if they do not all fit; some may have been written then.
    #[inline]
    pub fn write_slice(&mut self, data: &[u8], addr: GuestAddress) -> Result<(), Fault> {
        match self.find(addr, data.len()) {
            Some((open, offset)) => open.write_slice(data, offset).map_err(GuestMemoryError::from)?,
            None => self.memory.write_slice(data, addr)?,
        }
        Ok(())
    }

    /// Adds the bytes of a segment to what goes to the host.
    ///
    /// # Errors
    /// [`Fault::Memory`] if they are not all in guest memory; some may have been added then.
    #[inline]
    pub fn gather<'g>(&mut self, seg: Seg, to: &mut Gather<'g>) -> Result<(), Fault>
    where
        'a: 'g,
    {
        let len = seg.len as usize;
        if let Some((open, offset)) = self.find(seg.addr, len) {
            to.push(&open.slice(offset, len).map_err(GuestMemoryError::from)?);
            return Ok(());
        }
        for slice in self.memory.get_slices(seg.addr, len, Permissions::Read)? {
            to.push(&slice?);
        }
        Ok(())
    }

    /// Adds the bytes of a segment to what the host fills. What it has filled is to be [marked](Self::wrote).
    ///
    /// # Errors
    /// [`Fault::Memory`] if they are not all in guest memory; some may have been added then.
    #[inline]
    pub fn scatter<'s>(&mut self, seg: Seg, to: &mut Scatter<'s>) -> Result<(), Fault>
    where
        'a: 's,
    {
        let len = seg.len as usize;
        if let Some((open, offset)) = self.find(seg.addr, len) {
            to.push(&open.slice(offset, len).map_err(GuestMemoryError::from)?);
            return Ok(());
        }
        for slice in self.memory.get_slices(seg.addr, len, Permissions::Write)? {
            to.push(&slice?);
        }
        Ok(())
    }

    /// Marks a segment that somebody else has written, such as the host, as dirty.
    ///
    /// # Errors
    /// [`Fault::Memory`] if it is not all in guest memory.
    #[inline]
    pub fn wrote(&mut self, seg: Seg) -> Result<(), Fault> {
        let len = seg.len as usize;
        if let Some((open, offset)) = self.find(seg.addr, len) {
            open.wrote(offset, len);
            return Ok(());
        }
        for slice in self.memory.get_slices(seg.addr, len, Permissions::Write)? {
            let slice = slice?;
            slice.bitmap().mark_dirty(0, slice.len());
        }
        Ok(())
    }
}
