//! Where a device's structures are in its BARs.
use crate::{Description, SharedMemory};
use drystone_pci::MsixPlace;
use std::ops::Range;

const PAGE: u64 = 4096;
/// The length of the common configuration structure.
pub(super) const COMMON_LEN: u64 = 0x40;
const COMMON: Range<u64> = 0..COMMON_LEN;
const ISR: u64 = 0x100;
/// Bytes between the doorbells of two queues (`notify_off_multiplier`).
pub(super) const DOORBELL_STRIDE: u64 = 4;
/// The size of an entry of the MSI-X table.
const ENTRY: u64 = 16;
/// The least BAR, so that few sizes occur.
const LEAST: u64 = 4 * PAGE;

/// What an offset in the registers' BAR means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A byte of the common configuration structure.
    Common(u64),
    Isr,
    /// A byte of the device's configuration space.
    Device(u64),
    /// A queue's doorbell.
    Doorbell(u16),
}

/// The registers' BAR: common configuration and ISR status, the device's configuration space, the MSI-X structures, doorbells,
/// each on pages of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// Empty for a device without a configuration space.
    device: Range<u64>,
    pub msix: MsixPlace,
    notify: u64,
    queues: u16,
    /// The size of the BAR.
    pub size: u64,
}

impl Layout {
    /// `None` for what does not fit.
    pub fn new(description: &Description, vectors: usize) -> Option<Self> {
        let queues = u16::try_from(description.queue_sizes.len()).ok()?;
        let device = PAGE..PAGE + u64::from(description.config_len);
        let table = device.end.next_multiple_of(PAGE);
        let pending = (table + u64::try_from(vectors).ok()?.checked_mul(ENTRY)?).next_multiple_of(8);
        let pending_len = vectors.div_ceil(64) as u64 * 8;
        let notify = pending.checked_add(pending_len)?.checked_next_multiple_of(PAGE)?;
        let end = notify + u64::from(queues).max(1) * DOORBELL_STRIDE;
        let size = end.checked_next_power_of_two()?.max(LEAST);
        // Capabilities have 32 bits for offsets.
        u32::try_from(size).ok()?;
        let msix = MsixPlace { bar: super::BAR, table: table as u32, pending: pending as u32 };
        Some(Self { device, msix, notify, queues, size })
    }

    /// Where the structures that capabilities name are.
    pub fn common(&self) -> Range<u64> {
        COMMON
    }

    pub fn isr(&self) -> Range<u64> {
        ISR..ISR + 1
    }

    pub fn device(&self) -> Option<Range<u64>> {
        (!self.device.is_empty()).then(|| self.device.clone())
    }

    pub fn notify(&self) -> Range<u64> {
        self.notify..self.notify + u64::from(self.queues).max(1) * DOORBELL_STRIDE
    }

    /// The offset of each queue's doorbell.
    pub fn doorbells(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        (0..self.queues).map(|queue| (queue, self.notify + u64::from(queue) * DOORBELL_STRIDE))
    }

    /// What is at `offset`. Gaps are nothing, and so are the MSI-X structures, which are not the transport's.
    pub fn find(&self, offset: u64) -> Option<Place> {
        if COMMON.contains(&offset) {
            return Some(Place::Common(offset));
        }
        if offset == ISR {
            return Some(Place::Isr);
        }
        if self.device.contains(&offset) {
            return Some(Place::Device(offset - self.device.start));
        }
        let at = offset.checked_sub(self.notify).filter(|at| at.is_multiple_of(DOORBELL_STRIDE))?;
        let queue = u16::try_from(at / DOORBELL_STRIDE).ok()?;
        (queue < self.queues).then_some(Place::Doorbell(queue))
    }

    /// Whether all of `len` bytes from `offset` on are in one structure that a capability names.
    pub fn holds(&self, offset: u64, len: u64) -> bool {
        let Some(end) = offset.checked_add(len) else { return false };
        let structures = [Some(self.common()), Some(self.isr()), self.device(), Some(self.notify())];
        structures.into_iter().flatten().any(|s| s.start <= offset && end <= s.end)
    }
}

/// A shared memory region in its BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SharedPlace {
    pub id: u8,
    pub offset: u64,
    pub len: u64,
}

/// The regions one after the other, each on pages of its own. `None` for what does not fit.
pub(super) fn shared_memory(regions: &[SharedMemory]) -> Option<Vec<SharedPlace>> {
    let mut next = 0_u64;
    let mut places = Vec::new();
    for SharedMemory { id, len } in regions.iter().copied() {
        places.push(SharedPlace { id, offset: next, len });
        next = next.checked_add(len)?.checked_next_multiple_of(PAGE)?;
    }
    shared_size(&places).is_some().then_some(places)
}

/// The size of the BAR that holds them; `None` if there is none.
pub(super) fn shared_size(places: &[SharedPlace]) -> Option<u64> {
    let Some(last) = places.last() else { return Some(0) };
    let size = last.offset.checked_add(last.len)?.max(PAGE).checked_next_power_of_two()?;
    (size <= 1 << 62).then_some(size)
}

#[cfg(test)]
mod tests;
