//! Dirty rings: lists of written pages, one a vCPU, in memory shared with KVM (kernel document virt/kvm/api,
//! KVM_CAP_DIRTY_LOG_RING).
//!
//! KVM fills an entry and then marks it dirty; we take it and then mark it taken; KVM_RESET_DIRTY_RINGS makes KVM
//! protect the pages of taken entries again and reuse the entries. A page that is written after that is listed anew.

use super::lock;
use super::slots::Slot;
use crate::error::{call, invalid};
use drystone_hypervisor::{DirtyTracking, Error};
use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_DIRTY_LOG_PAGE_OFFSET, kvm_dirty_gfn,
    kvm_enable_cap,
};
use kvm_ioctls::{VcpuFd, VmFd};
use std::collections::BTreeMap;
use std::io;
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

const PAGE: usize = 4096;
/// KVM_DIRTY_GFN_F_DIRTY: KVM has filled the entry.
const DIRTY: u32 = 1 << 0;
/// KVM_DIRTY_GFN_F_RESET: we have taken it.
const TAKEN: u32 = 1 << 1;
/// KVM_RESET_DIRTY_RINGS, `_IO(KVMIO, 0xc7)`.
const RESET_DIRTY_RINGS: libc::c_ulong = 0xaec7;

/// The rings of a VM's vCPUs, also of those that are gone.
pub(crate) struct Rings {
    entries: u32,
    mapped: Mutex<Mapped>,
}

#[derive(Default)]
struct Mapped {
    rings: Vec<Ring>,
    /// Entries were taken that KVM has not been told of.
    taken: bool,
    /// How often something was taken and KVM was told.
    emptied: u64,
}

impl Rings {
    /// Turns rings on, if they are asked for. Before the first vCPU.
    pub(super) fn enable(fd: &VmFd, tracking: DirtyTracking) -> Result<Option<Self>, Error> {
        let DirtyTracking::Ring { entries } = tracking else { return Ok(None) };
        let attempt = || format!("track written pages in rings of {entries} entries");
        let (cap, most) = offered(|cap| fd.check_extension_raw(cap));
        if most == 0 {
            return Err(Error::Missing { what: "dirty rings (KVM_CAP_DIRTY_LOG_RING)".into() });
        }
        if !entries.is_power_of_two() || entries > most {
            return Err(invalid(attempt(), format!("it is no power of two up to {most}")));
        }
        let bytes = u64::from(entries) * size_of::<kvm_dirty_gfn>() as u64;
        let enable = kvm_enable_cap { cap, args: [bytes, 0, 0, 0], ..Default::default() };
        match fd.enable_cap(&enable) {
            Ok(()) => Ok(Some(Self { entries, mapped: Mutex::default() })),
            Err(e) if e.errno() == libc::EINVAL => Err(invalid(attempt(), "KVM finds it too small")),
            Err(e) => Err(call(attempt)(e)),
        }
    }

    /// Takes up the ring of a new vCPU.
    pub(crate) fn add(&self, vcpu: &VcpuFd) -> io::Result<()> {
        lock(&self.mapped).rings.push(Ring::map(vcpu, self.entries)?);
        Ok(())
    }

    /// Moves what is in the rings to the bitmaps of `slots`, and makes room in the rings. What is of no slot any more is
    /// forgotten. Answers how often there was something so far.
    ///
    /// Fails when KVM has written over entries: it asks to be let out of the guest while some entries are left, and then has gone on
    /// writing for longer than those lasted. Some writes are in no log then, and no log can be read any more.
    pub(super) fn harvest(&self, fd: &VmFd, slots: &mut BTreeMap<u32, Slot>) -> Result<u64, Error> {
        let mut mapped = lock(&self.mapped);
        let Mapped { rings, taken, emptied } = &mut *mapped;
        for ring in rings {
            let before = ring.taken;
            while let Some(entry) = ring.take() {
                *taken = true;
                if let Some(slot) = slots.get_mut(&entry.slot) {
                    slot.mark(entry.offset);
                }
            }
            let count = ring.taken.wrapping_sub(before);
            // KVM stops a vCPU well before that. One that has used the last entry too may have gone on over the first.
            if count >= ring.entries {
                slots.values_mut().for_each(Slot::mark_all);
            }
            if count == 0 && ring.is_overrun() {
                let why = "KVM has written over entries that were not read yet";
                return Err(invalid("read a ring of written pages", why));
            }
        }
        if *taken {
            reset(fd)?;
            *taken = false;
            *emptied += 1;
        }
        Ok(*emptied)
    }
}

/// The capability to enable, and how many entries a ring may have at most, where `check` is KVM_CHECK_EXTENSION. The
/// first is for processors of any memory order; KVM before 6.1 has only the second, on x86.
pub(crate) fn offered(check: impl Fn(libc::c_ulong) -> i32) -> (u32, u32) {
    let entries = |cap: u32| {
        let bytes = usize::try_from(check(cap.into())).unwrap_or(0);
        (cap, (bytes / size_of::<kvm_dirty_gfn>()) as u32)
    };
    let newer = entries(KVM_CAP_DIRTY_LOG_RING_ACQ_REL);
    if newer.1 > 0 { newer } else { entries(KVM_CAP_DIRTY_LOG_RING) }
}

fn reset(fd: &VmFd) -> Result<(), Error> {
    // SAFETY: the call has no argument and touches the rings only, which are shared with KVM for that.
    match unsafe { libc::ioctl(fd.as_raw_fd(), RESET_DIRTY_RINGS as libc::Ioctl, 0) } {
        0.. => Ok(()),
        _ => Err(Error::Call {
            attempt: "make room in the dirty rings".into(),
            cause: io::Error::last_os_error(),
        }),
    }
}

/// One vCPU's ring.
struct Ring {
    first: NonNull<kvm_dirty_gfn>,
    entries: u32,
    /// How many entries were taken so far: the next one's number, as KVM counts too.
    taken: u32,
}

// SAFETY: the mapping belongs to the process, not to a thread. All access is through methods that take `&mut self`.
unsafe impl Send for Ring {}

/// A page of a slot.
struct Entry {
    slot: u32,
    offset: u64,
}

impl Ring {
    fn map(vcpu: &VcpuFd, entries: u32) -> io::Result<Self> {
        let len = entries as usize * size_of::<kvm_dirty_gfn>();
        let offset = (KVM_DIRTY_LOG_PAGE_OFFSET as usize * PAGE) as libc::off_t;
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice takes nothing away from anybody.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, vcpu.as_raw_fd(), offset) };
        match NonNull::new(at) {
            Some(at) if at.as_ptr() != libc::MAP_FAILED => Ok(Self { first: at.cast(), entries, taken: 0 }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The next entry that KVM has filled.
    fn take(&mut self) -> Option<Entry> {
        let entry = self.entry(self.taken);
        let flags = self.flags(entry);
        // Pairs with KVM's release: what it wrote before is there.
        if flags.load(Ordering::Acquire) & DIRTY == 0 {
            return None;
        }
        // SAFETY: in the mapping, and KVM does not touch an entry between marking it dirty and our marking it taken.
        let (slot, offset) = unsafe { ((*entry).slot, (*entry).offset) };
        // Pairs with KVM's acquire: it reuses the entry only after we have read it.
        flags.store(TAKEN, Ordering::Release);
        self.taken = self.taken.wrapping_add(1);
        Some(Entry { slot, offset })
    }

    /// Whether KVM has filled an entry although it has not filled the next one to take: it fills them one after the other.
    fn is_overrun(&self) -> bool {
        let is_filled = |number| self.flags(self.entry(number)).load(Ordering::Acquire) & DIRTY != 0;
        let behind = (1..self.entries).any(|ahead| is_filled(self.taken.wrapping_add(ahead)));
        // It may have filled the next one, and then others, meanwhile.
        behind && !is_filled(self.taken)
    }

    /// Where entry `number` lies.
    fn entry(&self, number: u32) -> *mut kvm_dirty_gfn {
        // SAFETY: the mapping has `entries` entries and lives as long as `self`.
        unsafe { self.first.as_ptr().add((number % self.entries) as usize) }
    }

    fn flags(&self, entry: *mut kvm_dirty_gfn) -> &AtomicU32 {
        // SAFETY: `entry` lies in the mapping, aligned, and its flags are only ever accessed as an atomic, by us and by KVM.
        unsafe { AtomicU32::from_ptr(entry.cast::<u8>().add(offset_of!(kvm_dirty_gfn, flags)).cast()) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let len = self.entries as usize * size_of::<kvm_dirty_gfn>();
        // SAFETY: exactly what `map` mapped; nothing borrowed from it is left.
        unsafe { libc::munmap(self.first.as_ptr().cast(), len) };
    }
}
