use super::lock;
use crate::{Error, MapOptions};
use drystone_memory::Backed;
use std::sync::{Arc, Mutex};

/// How many ranges can be mapped at a time.
pub(super) const MAX_SLOTS: u32 = 512;
const PAGE: u64 = 4096;

struct Slot {
    region: Arc<dyn Backed>,
    options: MapOptions,
    /// One bit a page, while the hypervisor logs.
    dirty: Vec<u64>,
}

impl Slot {
    /// Bytes of the slot from `addr` on; 0 if it does not lie in it.
    fn reach(&self, addr: u64) -> u64 {
        let offset = addr.checked_sub(self.region.guest_base());
        offset.map_or(0, |o| self.region.len().saturating_sub(o))
    }
}

/// What is mapped for a guest.
#[derive(Default)]
pub(super) struct Slots(Mutex<Vec<Slot>>);

impl Slots {
    pub(super) fn map(&self, region: Arc<dyn Backed>, options: MapOptions) -> Result<(), Error> {
        let (base, len) = (region.guest_base(), region.len());
        let invalid = |why: String| Error::Invalid {
            attempt: format!("map {len} bytes of guest memory at {base:#x}"),
            why,
        };
        let mut slots = lock(&self.0);
        if len == 0 || !base.is_multiple_of(PAGE) || !len.is_multiple_of(PAGE) {
            return Err(invalid("not whole pages".into()));
        }
        let Some(end) = base.checked_add(len) else {
            return Err(invalid("it wraps around the end of the address space".into()));
        };
        let overlaps = |r: &&Arc<dyn Backed>| r.guest_base() < end && base < r.guest_base() + r.len();
        let other = slots.iter().map(|s| &s.region).find(overlaps);
        if let Some(other) = other {
            return Err(invalid(format!("it overlaps {} bytes at {:#x}", other.len(), other.guest_base())));
        }
        if slots.len() >= MAX_SLOTS as usize {
            return Err(invalid(format!("all {MAX_SLOTS} memory slots are taken")));
        }
        let words = if options.log_dirty { (len / PAGE).div_ceil(64) as usize } else { 0 };
        slots.push(Slot { region, options, dirty: vec![0; words] });
        Ok(())
    }

    pub(super) fn unmap(&self, base: u64) {
        // The region may be unmapped from this process here: not under the lock.
        let removed = {
            let mut slots = lock(&self.0);
            let at = slots.iter().position(|s| s.region.guest_base() == base);
            at.map(|at| slots.swap_remove(at))
        };
        drop(removed);
    }

    /// Reads as many of the first bytes of `out` as are mapped in one range; 0 if `addr` is not RAM.
    pub(super) fn read(&self, addr: u64, out: &mut [u8]) -> usize {
        let slots = lock(&self.0);
        let Some(slot) = slots.iter().find(|s| s.reach(addr) > 0) else { return 0 };
        let len = slot.reach(addr).min(out.len() as u64) as usize;
        let done =
            out.get_mut(..len).is_some_and(|o| slot.region.read_at(addr - slot.region.guest_base(), o));
        if done { len } else { 0 }
    }

    /// Writes as many of the first bytes of `data` as are mapped, writable, in one range; 0 if `addr` is not such RAM.
    pub(super) fn write(&self, addr: u64, data: &[u8]) -> usize {
        let mut slots = lock(&self.0);
        let writable = |s: &&mut Slot| s.reach(addr) > 0 && !s.options.read_only;
        let Some(slot) = slots.iter_mut().find(writable) else { return 0 };
        let len = slot.reach(addr).min(data.len() as u64) as usize;
        let offset = addr - slot.region.guest_base();
        if len == 0 || !data.get(..len).is_some_and(|d| slot.region.write_at(offset, d)) {
            return 0;
        }
        for page in offset / PAGE..=(offset + len as u64 - 1) / PAGE {
            if let Some(word) = slot.dirty.get_mut((page / 64) as usize) {
                *word |= 1 << (page % 64);
            }
        }
        len
    }

    pub(super) fn take_dirty(&self, base: u64) -> Result<Vec<u64>, Error> {
        let mut slots = lock(&self.0);
        let slot = slots.iter_mut().find(|s| s.region.guest_base() == base && s.options.log_dirty);
        let slot = slot.ok_or_else(|| Error::Invalid {
            attempt: format!("read the dirty log of the guest memory at {base:#x}"),
            why: "no memory with a dirty log is mapped there".into(),
        })?;
        let clean = vec![0; slot.dirty.len()];
        Ok(std::mem::replace(&mut slot.dirty, clean))
    }
}
