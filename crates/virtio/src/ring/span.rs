use crate::Fault;
use drystone_memory::Mem;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::bitmap::{BS, Bitmap};
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryError, Permissions, VolatileMemory,
    VolatileSlice,
};

/// Bytes of a descriptor (2.7.5).
pub(super) const DESCRIPTOR: usize = 16;

/// Areas that lie further apart are not looked for at once: there may be something between that is no memory.
const MAX_TOGETHER: u64 = 1 << 20;

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

    /// The `len` bytes from address `base` on, if they are in this one, in one piece.
    fn part(&self, base: u64, len: usize) -> Option<Self> {
        let offset = usize::try_from(base.checked_sub(self.base.0)?).ok()?;
        let piece = self.piece.as_ref()?.subslice(offset, len).ok()?;
        Some(Self { memory: self.memory, base: GuestAddress(base), piece: Some(piece) })
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

    /// Stores a value that [`mark`](Self::mark) has yet to mark as written.
    #[inline]
    pub fn store(&self, value: u16, offset: usize, order: Ordering) -> Result<(), Fault> {
        match &self.piece {
            Some(s) => s
                .get_atomic_ref::<AtomicU16>(offset)
                .map_err(GuestMemoryError::from)?
                .store(value.to_le(), order),
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

    /// Stores two values, one after the other, that [`mark`](Self::mark) has yet to mark as written.
    #[inline]
    pub fn put(&self, values: [u32; 2], offset: usize) -> Result<(), Fault> {
        let Some(s) = &self.piece else {
            return Ok(self.memory.write_obj(values.map(u32::to_le), self.at(offset))?);
        };
        let place = s.subslice(offset, 8).map_err(GuestMemoryError::from)?;
        for (value, at) in values.into_iter().zip([0, 4]) {
            let word = place.get_atomic_ref::<AtomicU32>(at).map_err(GuestMemoryError::from)?;
            word.store(value.to_le(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Marks all of it as written: after whatever was stored, so that who copies dirty pages meanwhile copies it again.
    pub fn mark(&self) {
        if let Some(s) = &self.piece {
            s.bitmap().mark_dirty(0, s.len());
        }
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
        let (size, event_idx) = (queue.size(), queue.event_idx_enabled());
        let [descriptors, available, used] = match Self::at_once(memory, queue) {
            Some(areas) => areas,
            None => Self::one_by_one(memory, queue)?,
        };
        Ok(Self { descriptors, available, used, size, event_idx })
    }

    /// Drivers put the three areas next to each other, so that they are mostly found with one look at the map of memory.
    fn at_once(memory: &'a M::M, queue: &Queue) -> Option<[Span<'a, M>; 3]> {
        // An IOMMU may allow less for some of it, and tell the guest what was tried.
        memory.physical_memory()?;
        let [descriptors, available, used] = lengths(queue.size());
        let end = queue.used_ring().checked_add(used as u64)?;
        let len = end.checked_sub(queue.desc_table()).filter(|len| *len <= MAX_TOGETHER)?;
        let all =
            Span::new(memory, queue.desc_table(), usize::try_from(len).ok()?, Permissions::ReadWrite).ok()?;
        Some([
            all.part(queue.desc_table(), descriptors)?,
            all.part(queue.avail_ring(), available)?,
            all.part(queue.used_ring(), used)?,
        ])
    }

    fn one_by_one(memory: &'a M::M, queue: &Queue) -> Result<[Span<'a, M>; 3], Fault> {
        let [descriptors, available, used] = lengths(queue.size());
        Ok([
            Span::new(memory, queue.desc_table(), descriptors, Permissions::Read)?,
            Span::new(memory, queue.avail_ring(), available, Permissions::Read)?,
            Span::new(memory, queue.used_ring(), used, Permissions::Write)?,
        ])
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
        self.used.put([head.into(), len], offset)
    }
}
