use super::{Shared, lock, rings::Rings};
use crate::error::{call, invalid};
use drystone_hypervisor::{Error, Guard, MapOptions};
use drystone_memory::{Backed, Layout};
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, VmFd};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

const PAGE: u64 = 4096;

pub(super) struct Slot {
    region: Arc<dyn Backed>,
    options: MapOptions,
    /// What was harvested from dirty rings: a bit a page.
    dirty: Vec<u64>,
}

impl Slot {
    /// The region's page `page` was written.
    pub(super) fn mark(&mut self, page: u64) {
        if let Some(word) = self.dirty.get_mut((page / 64) as usize) {
            *word |= 1 << (page % 64);
        }
    }
    /// All of its pages count as written.
    pub(super) fn mark_all(&mut self) {
        let pages = self.region.len() / PAGE;
        for (word, first) in self.dirty.iter_mut().zip((0..pages).step_by(64)) {
            let more = pages - first;
            *word = if more < 64 { (1 << more) - 1 } else { u64::MAX };
        }
    }

    fn base(&self) -> u64 {
        self.region.guest_base()
    }
    /// Does not overflow: only regions that end within the address space get a slot.
    fn end(&self) -> u64 {
        self.base() + self.region.len()
    }
}

/// The memory slots in use, by number. Whatever KVM may access is kept alive here: a region enters before KVM learns
/// of it and leaves after KVM has forgotten it. The lock is held over KVM's call, so no number is handed out twice.
pub(crate) struct Slots {
    used: Mutex<BTreeMap<u32, Slot>>,
    max: usize,
}

impl Slots {
    pub(super) fn new(max: usize) -> Self {
        Self { used: Mutex::default(), max }
    }

    /// Copies guest memory out, as far as it is mapped in one slot: how many of the first bytes of `out` were filled.
    pub(crate) fn read(&self, addr: u64, out: &mut [u8]) -> usize {
        let used = lock(&self.used);
        let Some(slot) = used.values().find(|s| (s.base()..s.end()).contains(&addr)) else { return 0 };
        let len = out.len().min(usize::try_from(slot.end() - addr).unwrap_or(usize::MAX));
        let read = out.get_mut(..len).is_some_and(|out| slot.region.read_at(addr - slot.base(), out));
        if read { len } else { 0 }
    }

    /// Makes room in the vCPUs' dirty rings. Answers how often that was needed so far.
    pub(super) fn harvest(&self, fd: &VmFd, rings: &Rings) -> Result<u64, Error> {
        rings.harvest(fd, &mut lock(&self.used))
    }

    fn unmap(&self, fd: &VmFd, rings: Option<&Rings>, number: u32) {
        let mut used = lock(&self.used);
        let Some(slot) = used.remove(&number) else { return };
        let gone = kvm_userspace_memory_region { slot: number, ..Default::default() };
        // SAFETY: deleting a slot (its size is 0) takes memory away from the guest only.
        let done = unsafe { fd.set_user_memory_region(gone) };
        if let Some(rings) = rings {
            // What they still hold of this slot must not be taken for the next one's of that number. Should KVM refuse
            // to make room, whoever reads the log next hears of it.
            let _ = rings.harvest(fd, &mut used);
        }
        drop(used);
        if done.is_err() {
            // KVM never refuses to delete a slot that exists. Should it, the guest still reaches the memory: it
            // must stay mapped for ever.
            std::mem::forget(slot);
        }
        super::must_succeed(done, "delete a memory slot");
    }
}

pub(super) fn dirty_log(shared: &Shared, base: u64) -> Result<Vec<u64>, Error> {
    let attempt = || format!("read the dirty log of the guest memory at {base:#x}");
    let mut used = lock(&shared.slots.used);
    if let Some(rings) = &shared.rings {
        rings.harvest(&shared.fd, &mut used)?;
    }
    let found = used.iter_mut().find(|(_, s)| s.base() == base && s.options.log_dirty);
    let (&number, slot) =
        found.ok_or_else(|| invalid(attempt(), "no memory with a dirty log is mapped there"))?;
    if shared.rings.is_some() {
        let clean = vec![0; slot.dirty.len()];
        return Ok(std::mem::replace(&mut slot.dirty, clean));
    }
    let len = usize::try_from(slot.region.len()).map_err(|e| invalid(attempt(), e.to_string()))?;
    shared.fd.get_dirty_log(number, len).map_err(call(attempt))
}

pub(super) fn map(
    shared: &Arc<Shared>,
    region: Arc<dyn Backed>,
    options: MapOptions,
) -> Result<Guard, Error> {
    let (base, len) = (region.guest_base(), region.len());
    let attempt = || format!("map {len} bytes of guest memory at {base:#x}");
    let refuse = |why: String| Err(invalid(attempt(), why));
    let slots = &shared.slots;
    if len == 0 || [base, len, region.host_addr() as u64].iter().any(|n| !n.is_multiple_of(PAGE)) {
        return refuse("not whole pages".into());
    }
    let Some(end) = base.checked_add(len) else {
        return refuse("it wraps around the end of the address space".into());
    };
    if base < Layout::KVM_RESERVED.end && Layout::KVM_RESERVED.start < end {
        return refuse(format!("KVM itself needs {:#x?}", Layout::KVM_RESERVED));
    }
    if options.read_only && !shared.fd.check_extension(Cap::ReadonlyMem) {
        return Err(Error::Missing { what: "read-only memory (KVM_CAP_READONLY_MEM)".into() });
    }
    let mut used = lock(&slots.used);
    if let Some(other) = used.values().find(|s| base < s.end() && s.base() < end) {
        return refuse(format!("it overlaps what is mapped at {:#x}..{:#x}", other.base(), other.end()));
    }
    // The lowest free number: keys are unique and ascending, so the first that is not its own rank leaves a gap.
    let number =
        used.keys().zip(0..).find(|&(&key, rank)| key != rank).map_or(used.len() as u32, |(_, rank)| rank);
    if number as usize >= slots.max {
        return refuse(format!("all {} memory slots are taken", slots.max));
    }
    let slot = kvm_userspace_memory_region {
        slot: number,
        flags: if options.log_dirty { KVM_MEM_LOG_DIRTY_PAGES } else { 0 }
            | if options.read_only { KVM_MEM_READONLY } else { 0 },
        guest_phys_addr: base,
        memory_size: len,
        userspace_addr: region.host_addr() as u64,
    };
    // SAFETY: `Backed` promises that these bytes stay mapped for as long as the region lives, and that Rust holds no
    // references into them. The region lives in `used` from here on until KVM has forgotten the slot: `unmap` orders
    // it so, and if no guard does, then the guard's clone of `shared` was leaked and all of this with it.
    unsafe { shared.fd.set_user_memory_region(slot) }.map_err(call(attempt))?;
    let words = if options.log_dirty && shared.rings.is_some() { (len / PAGE).div_ceil(64) } else { 0 };
    used.insert(number, Slot { region, options, dirty: vec![0; words as usize] });
    drop(used);
    let shared = shared.clone();
    Ok(Guard::new(move || shared.slots.unmap(&shared.fd, shared.rings.as_ref(), number)))
}
