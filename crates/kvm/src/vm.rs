mod create;
mod deferred;
mod events;
#[cfg(test)]
pub(crate) mod fixture;
mod msr_filter;
mod rings;
mod routes;
mod slots;
mod state;

use crate::clock::Passage;
use crate::error::{call, invalid};
use crate::vcpu::KvmVcpu;
use create::require;
use deferred::Deferred;
use drystone_hypervisor::{
    Clocks, Datamatch, Error, Guard, InterruptControllers, IoAddress, MapOptions, Msi, MsiRoute, Vcpu, Vm,
    VmConfig,
};
use drystone_memory::Backed;
use drystone_state::Blob;
use kvm_ioctls::VmFd;
use rings::Rings;
pub(crate) use rings::offered as dirty_rings_offered;
use routes::Routes;
use slots::Slots;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use vmm_sys_util::{errno, eventfd::EventFd};

/// IA32_TSC_DEADLINE, which arms a local APIC's timer.
pub(crate) const TSC_DEADLINE: u32 = 0x6e0;

/// What the vCPUs and guards of a VM share. They all hold it, so KVM's VM outlives them.
pub(crate) struct Shared {
    /// Dropped before the regions that `slots` keeps alive; see there.
    pub(crate) fd: VmFd,
    pub(crate) slots: Slots,
    /// The vCPUs' dirty rings; none with a dirty log.
    pub(crate) rings: Option<Rings>,
    pub(crate) deferred: Deferred,
    pub(crate) config: VmConfig,
    routes: Routes,
    /// The time that went by before the state that was restored last; vCPUs' counters need it.
    pub(crate) passage: Mutex<Option<Passage>>,
    /// The MSRs that this host's KVM can save.
    pub(crate) msr_list: Vec<u32>,
    /// Size in bytes of the XSAVE area (KVM_CAP_XSAVE2); `None` on a KVM that only knows the classic 4096 bytes.
    pub(crate) xsave_size: Option<usize>,
}

pub(crate) struct KvmVm {
    shared: Arc<Shared>,
    /// Numbers of vCPUs that were ever made.
    vcpus: Mutex<BTreeSet<u32>>,
    max_vcpu_id: usize,
}

impl KvmVm {
    pub(crate) fn new(kvm: &kvm_ioctls::Kvm, config: &VmConfig) -> Result<Self, Error> {
        let shared = Arc::new(create::create(kvm, config)?);
        Ok(Self { shared, vcpus: Mutex::default(), max_vcpu_id: kvm.get_max_vcpu_id() })
    }
}

impl Vm for KvmVm {
    fn map_memory(&self, region: Arc<dyn Backed>, options: MapOptions) -> Result<Guard, Error> {
        slots::map(&self.shared, region, options)
    }

    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, Error> {
        let attempt = || format!("create vCPU {id}");
        if id as usize >= self.max_vcpu_id {
            return Err(invalid(attempt(), format!("numbers go up to {}", self.max_vcpu_id - 1)));
        }
        let mut vcpus = lock(&self.vcpus);
        if vcpus.contains(&id) {
            return Err(invalid(attempt(), "the number was used before"));
        }
        let vcpu = KvmVcpu::new(id, self.shared.clone())?;
        vcpus.insert(id);
        Ok(Box::new(vcpu))
    }

    fn set_irq_line(&self, gsi: u32, high: bool) -> Result<(), Error> {
        let attempt = || format!("set interrupt line {gsi}");
        self.shared.needs_lines(attempt)?;
        self.shared.fd.set_irq_line(gsi, high).map_err(call(attempt))
    }

    fn register_irqfd(&self, event: &EventFd, gsi: u32) -> Result<Guard, Error> {
        events::register_irqfd(&self.shared, event, gsi)
    }

    fn signal_msi(&self, message: Msi) -> Result<(), Error> {
        routes::signal(&self.shared, message)
    }

    fn create_msi_route(&self, event: &EventFd) -> Result<Box<dyn MsiRoute>, Error> {
        routes::create(&self.shared, event, None)
    }

    fn create_pin_route(&self, pin: u32, event: &EventFd) -> Result<Box<dyn MsiRoute>, Error> {
        routes::create(&self.shared, event, Some(pin))
    }

    fn register_ioeventfd(
        &self,
        event: &EventFd,
        addr: IoAddress,
        datamatch: Option<Datamatch>,
    ) -> Result<Guard, Error> {
        events::register_ioeventfd(&self.shared, event, addr, datamatch)
    }

    fn defer_writes(&self, port: u16, len: u16) -> Result<Guard, Error> {
        deferred::register(&self.shared, port, len)
    }

    fn dirty_log(&self, guest_base: u64) -> Result<Vec<u64>, Error> {
        slots::dirty_log(&self.shared, guest_base)
    }

    fn save(&self) -> Result<Blob, Error> {
        state::save(&self.shared)
    }

    fn restore(&self, blob: &Blob, clocks: Clocks) -> Result<(), Error> {
        state::restore(&self.shared, blob, clocks)
    }
}

impl Shared {
    /// What KVM says without them (EAGAIN, ENXIO, EINVAL) would not help anybody.
    fn needs_local_apics(&self, attempt: impl FnOnce() -> String) -> Result<(), Error> {
        if self.config.has_interrupts() {
            return Ok(());
        }
        let cause = std::io::Error::other("the VM has no interrupt controllers");
        Err(Error::Call { attempt: attempt(), cause })
    }

    /// Makes room in the vCPUs' dirty rings. Answers how often that was needed so far.
    pub(crate) fn empty_rings(&self) -> Result<u64, Error> {
        self.rings.as_ref().map_or(Ok(0), |rings| self.slots.harvest(&self.fd, rings))
    }

    fn needs_lines(&self, attempt: impl FnOnce() -> String) -> Result<(), Error> {
        if self.config.interrupts == InterruptControllers::Full {
            return Ok(());
        }
        let cause = std::io::Error::other("the VM has no interrupt controllers with lines");
        Err(Error::Call { attempt: attempt(), cause })
    }
}

/// A thread that panicked while it held a lock left nothing half done: every change under our locks is one step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// For calls that undo something: there is nobody left to tell, and debug builds say it.
fn must_succeed(done: Result<(), errno::Error>, what: &str) {
    debug_assert!(done.is_ok(), "cannot {what}: {done:?}");
}
