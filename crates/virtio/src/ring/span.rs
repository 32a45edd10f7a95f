use crate::Fault;
use drystone_memory::Mem;
use std::sync::atomic::Ordering;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::bitmap::BS;
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryError, Permissions, VolatileMemory,
    VolatileSlice,
};

/// Bytes of a descriptor (2.7.5).
pub(super) const DESCRIPTOR: usize = 16;

type Slice<'a, M> = VolatileSlice<'a, BS<'a, <<M as GuestAddressSpace>::M as GuestMemory>::Bitmap>>;

/// A range of guest memory, resolved once if it is one piece; else (IOMMU, end of a region) access by access.
pub(super) struct Span<'a, M: Mem> {
    memory: &'a M::M,
    base: GuestAddress,
    piece: Option<Slice<'a, M>>,
}

impl<'a, M: Mem> Span<'a, M> {
    pub fn new(memory: &'a M::M, base: u64, len: usize, access: Permissions) -> Result<Self, Fault> {
        let base = GuestAddress(base);
        let piece = memory.get_slices(base, len, access)?.next().transpose()?;
        Ok(Self { memory, base, piece: piece.filter(|s| s.len() == len) })
    }

    /// The same memory.
    pub fn memory(&self) -> &'a M::M {
        self.memory
    }

    fn at(&self, offset: usize) -> GuestAddress {
        GuestAddress(self.base.0.wrapping_add(offset as u64))
    }

    #[inline]
    pub fn load(&self, offset: usize, order: Ordering) -> Result<u16, Fault> {
        let value = match &self.piece {
            Some(s) => s.load::<u16>(offset, order).map_err(GuestMemoryError::from)?,
            None => self.memory.load::<u16>(self.at(offset), order)?,
        };
        Ok(u16::from_le(value))
    }

    #[inline]
    pub fn store(&self, value: u16, offset: usize, order: Ordering) -> Result<(), Fault> {
        match &self.piece {
            Some(s) => s.store(value.to_le(), offset, order).map_err(GuestMemoryError::from)?,
            None => self.memory.store(value.to_le(), self.at(offset), order)?,
        }
        Ok(())
    }

    #[inline]
    pub fn descriptor(&self, index: u16) -> Result<Descriptor, Fault> {
        let offset = usize::from(index) * DESCRIPTOR;
        Ok(match &self.piece {
            Some(s) => s.get_ref::<Descriptor>(offset).map_err(GuestMemoryError::from)?.load(),
            None => self.memory.read_obj(self.at(offset))?,
        })
    }

    #[inline]
    pub fn put(&self, value: u64, offset: usize) -> Result<(), Fault> {
        match &self.piece {
            Some(s) => s.get_ref(offset).map_err(GuestMemoryError::from)?.store(value.to_le()),
            None => self.memory.write_obj(value.to_le(), self.at(offset))?,
        }
        Ok(())
    }
}

/// The three areas of a ring (2.7).
pub(super) struct Areas<'a, M: Mem> {
    pub descriptors: Span<'a, M>,
    pub available: Span<'a, M>,
    pub used: Span<'a, M>,
    pub size: u16,
    pub event_idx: bool,
}

/// Bytes of the three areas.
fn lengths(size: u16) -> [usize; 3] {
    let n = usize::from(size);
    [DESCRIPTOR * n, 6 + 2 * n, 6 + 8 * n]
}

impl<'a, M: Mem> Areas<'a, M> {
    pub fn accessible(memory: &M::M, queue: &Queue) -> bool {
        let [descriptors, available, used] = lengths(queue.size());
        memory.check_range(GuestAddress(queue.desc_table()), descriptors, Permissions::Read)
            && memory.check_range(GuestAddress(queue.avail_ring()), available, Permissions::Read)
            && memory.check_range(GuestAddress(queue.used_ring()), used, Permissions::Write)
    }

    pub fn resolve(memory: &'a M::M, queue: &Queue) -> Result<Self, Fault> {
        let [descriptors, available, used] = lengths(queue.size());
        Ok(Self {
            descriptors: Span::new(memory, queue.desc_table(), descriptors, Permissions::Read)?,
            available: Span::new(memory, queue.avail_ring(), available, Permissions::Read)?,
            used: Span::new(memory, queue.used_ring(), used, Permissions::Write)?,
            size: queue.size(),
            event_idx: queue.event_idx_enabled(),
        })
    }

    /// The head that the driver made available at `position`.
    #[inline]
    pub fn head(&self, position: u16) -> Result<u16, Fault> {
        // The size is a power of two, and never 0.
        self.available.load(4 + 2 * usize::from(position & self.size.wrapping_sub(1)), Ordering::Relaxed)
    }

    /// Writes the used element at `position`.
    #[inline]
    pub fn put_used(&self, position: u16, head: u16, len: u32) -> Result<(), Fault> {
        let offset = 4 + 8 * usize::from(position & self.size.wrapping_sub(1));
        self.used.put(u64::from(head) | u64::from(len) << 32, offset)
    }
}
