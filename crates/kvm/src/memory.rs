use drystone_hypervisor::{Error, MapOptions};
use drystone_memory::Backed;
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

const PAGE: u64 = 4096;

struct Slot {
    region: Arc<dyn Backed>,
    log_dirty: bool,
}

impl Slot {
    fn holds(&self, addr: u64) -> bool {
        addr.checked_sub(self.region.guest_base()).is_some_and(|offset| offset < self.region.len())
    }
}

/// The memory slots of a VM, by number. Keeps the mapped memory alive.
pub(crate) struct Slots {
    limit: u32,
    slots: Mutex<BTreeMap<u32, Slot>>,
}

impl Slots {
    pub(crate) fn new(limit: u32) -> Self {
        Self { limit, slots: Mutex::new(BTreeMap::new()) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Slot>> {
        self.slots.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Maps a region into a free slot and returns its number.
    pub(crate) fn map(&self, vm: &VmFd, region: Arc<dyn Backed>, options: MapOptions) -> Result<u32, Error> {
        let (base, len) = (region.guest_base(), region.len());
        let attempt = || format!("map memory at {base:#x}+{len:#x}");
        let invalid = |why: &str| Error::Invalid { attempt: attempt(), why: why.into() };
        let end = base.checked_add(len).filter(|_| len > 0).ok_or_else(|| invalid("empty or too long"))?;
        if !base.is_multiple_of(PAGE) || !len.is_multiple_of(PAGE) {
            return Err(invalid("not whole pages"));
        }
        let mut slots = self.lock();
        let overlaps =
            |s: &Slot| s.region.guest_base() < end && base < s.region.guest_base() + s.region.len();
        if slots.values().any(overlaps) {
            return Err(invalid("overlaps memory that is mapped"));
        }
        let free = (0..self.limit).find(|n| !slots.contains_key(n));
        let number = free.ok_or_else(|| invalid("all memory slots are taken"))?;
        let flags = if options.read_only { KVM_MEM_READONLY } else { 0 }
            | if options.log_dirty { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        let request = kvm_userspace_memory_region {
            slot: number,
            flags,
            guest_phys_addr: base,
            memory_size: len,
            userspace_addr: region.host_addr() as u64,
        };
        // SAFETY: `Backed` promises that the range is mapped while the value lives, and that no Rust reference points
        // into it; the slot table keeps the value until the slot is gone.
        unsafe { vm.set_user_memory_region(request) }
            .map_err(|e| Error::Call { attempt: attempt(), cause: e.into() })?;
        slots.insert(number, Slot { region, log_dirty: options.log_dirty });
        Ok(number)
    }

    /// Removes a slot; the memory is let go once KVM no longer maps it.
    pub(crate) fn unmap(&self, vm: &VmFd, number: u32) {
        let mut slots = self.lock();
        let request = kvm_userspace_memory_region { slot: number, ..Default::default() };
        // SAFETY: a size of 0 deletes the slot (KVM API, 4.35) and refers to no memory.
        let removed = unsafe { vm.set_user_memory_region(request) };
        if removed.is_ok() {
            slots.remove(&number);
        }
        // Otherwise KVM still maps it: the table keeps the memory alive, and the slot taken.
    }

    /// Slot number and length of the region at `guest_base`, if its writes are logged.
    pub(crate) fn logged(&self, guest_base: u64) -> Option<(u32, u64)> {
        let slots = self.lock();
        let found = slots.iter().find(|(_, s)| s.log_dirty && s.region.guest_base() == guest_base);
        found.map(|(number, slot)| (*number, slot.region.len()))
    }

    /// Copies up to `out.len()` bytes of guest memory, as far as one region holds them; returns how many.
    pub(crate) fn read(&self, addr: u64, out: &mut [u8]) -> usize {
        let slots = self.lock();
        let Some(slot) = slots.values().find(|s| s.holds(addr)) else { return 0 };
        let offset = addr - slot.region.guest_base();
        let len = usize::try_from(slot.region.len() - offset).map_or(out.len(), |room| room.min(out.len()));
        let read = out.get_mut(..len).is_some_and(|out| slot.region.read_at(offset, out));
        if read { len } else { 0 }
    }
}
