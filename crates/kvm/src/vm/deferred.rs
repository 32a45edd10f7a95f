//! Writes to ports that wait in a ring which KVM fills (kernel document virt/kvm/api, KVM_REGISTER_COALESCED_MMIO and
//! KVM_CAP_COALESCED_PIO).
//!
//! The ring is the VM's. KVM puts a write at `last`, under a lock of its own, and goes on; whoever takes it moves `first`. With
//! no room left a write exits.

use super::{Shared, lock, must_succeed, require};
use crate::error::{call, invalid};
use drystone_hypervisor::{Error, Guard, IoHandler};
use kvm_bindings::{KVM_COALESCED_MMIO_PAGE_OFFSET, kvm_coalesced_mmio, kvm_coalesced_mmio_ring};
use kvm_ioctls::{Cap, IoEventAddress, VcpuFd};
use std::io;
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

const PAGE: usize = 4096;
/// KVM_COALESCED_MMIO_MAX.
const ENTRIES: u32 = ((PAGE - size_of::<kvm_coalesced_mmio_ring>()) / size_of::<kvm_coalesced_mmio>()) as u32;

/// The writes of a VM's vCPUs that wait.
#[derive(Default)]
pub(crate) struct Deferred {
    is_used: AtomicBool,
    ring: OnceLock<Ring>,
    /// Held by whoever hands writes over: another vCPU's next access comes after that.
    order: Mutex<()>,
}

pub(super) fn register(shared: &Arc<Shared>, port: u16, len: u16) -> Result<Guard, Error> {
    let attempt = || format!("defer writes to {len} ports from {port:#x} on");
    if len == 0 || port.checked_add(len - 1).is_none() {
        return Err(invalid(attempt(), "there are no such ports"));
    }
    let what = "ports whose writes wait (KVM_CAP_COALESCED_PIO)";
    require(&shared.fd, &[Cap::CoalescedPio, Cap::CoalescedMmio], what)?;
    let (address, len) = (IoEventAddress::Pio(port.into()), u32::from(len));
    shared.fd.register_coalesced_mmio(address, len).map_err(call(attempt))?;
    shared.deferred.is_used.store(true, Ordering::Release);
    let shared = shared.clone();
    Ok(Guard::new(move || {
        let done = shared.fd.unregister_coalesced_mmio(IoEventAddress::Pio(port.into()), len);
        must_succeed(done, "no longer defer writes");
    }))
}

impl Deferred {
    /// Comes before each entry into the guest: maps the ring through `vcpu` as soon as something may be in it.
    pub(crate) fn prepare(&self, vcpu: &VcpuFd) -> io::Result<()> {
        if self.is_used.load(Ordering::Acquire) && self.ring.get().is_none() {
            // Another vCPU may have been quicker; then this mapping goes.
            let _ = self.ring.set(Ring::map(vcpu)?);
        }
        Ok(())
    }

    /// Hands over what waits.
    pub(crate) fn deliver(&self, io: &mut dyn IoHandler) {
        let Some(ring) = self.ring.get() else { return };
        // A write that another vCPU is just handing over is still in it.
        if ring.is_empty() {
            return;
        }
        let _one_at_a_time = lock(&self.order);
        while let Some(write) = ring.next() {
            let _handed_over = Advance(ring);
            let len = usize::try_from(write.len).unwrap_or(usize::MAX);
            if let (Ok(port), Some(data)) = (u16::try_from(write.phys_addr), write.data.get(..len)) {
                io.deferred_write(port, data);
            }
        }
    }
}

/// Gives the place of the write that was next back to KVM, also when its handler panicked.
struct Advance<'a>(&'a Ring);

impl Drop for Advance<'_> {
    fn drop(&mut self) {
        let first = self.0.first();
        first.store((first.load(Ordering::Relaxed) + 1) % ENTRIES, Ordering::Release);
    }
}

/// The page that KVM shares.
struct Ring(NonNull<kvm_coalesced_mmio_ring>);

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for Ring {}
// SAFETY: its numbers are only accessed as atomics, and an entry only read while KVM does not write it.
unsafe impl Sync for Ring {}

impl Ring {
    fn map(vcpu: &VcpuFd) -> io::Result<Self> {
        let offset = (KVM_COALESCED_MMIO_PAGE_OFFSET as usize * PAGE) as libc::off_t;
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice takes nothing away from anybody.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, prot, flags, vcpu.as_raw_fd(), offset) };
        match NonNull::new(at) {
            Some(at) if at.as_ptr() != libc::MAP_FAILED => Ok(Self(at.cast())),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// A number in the ring's head.
    fn number(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: in the mapping, aligned, and only ever accessed as an atomic on our side.
        unsafe { AtomicU32::from_ptr(self.0.as_ptr().cast::<u8>().add(offset).cast()) }
    }

    fn first(&self) -> &AtomicU32 {
        self.number(offset_of!(kvm_coalesced_mmio_ring, first))
    }

    fn is_empty(&self) -> bool {
        // Acquire pairs with KVM's barrier: what it wrote before `last` is there.
        let last = self.number(offset_of!(kvm_coalesced_mmio_ring, last)).load(Ordering::Acquire);
        self.first().load(Ordering::Acquire) == last
    }

    /// The write that has waited longest. It stays until somebody [advances](Advance), one thread at a time.
    fn next(&self) -> Option<kvm_coalesced_mmio> {
        let first = self.first().load(Ordering::Relaxed);
        if self.is_empty() || first >= ENTRIES {
            return None;
        }
        // SAFETY: one of the entries that the page has; KVM does not write it again before `first` has passed it.
        Some(unsafe { self.0.as_ptr().add(1).cast::<kvm_coalesced_mmio>().add(first as usize).read() })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` mapped; nothing borrowed from it is left.
        unsafe { libc::munmap(self.0.as_ptr().cast(), PAGE) };
    }
}
