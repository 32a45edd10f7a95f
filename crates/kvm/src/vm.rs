mod events;
mod slots;
mod state;

use crate::error::{call, invalid};
use crate::vcpu::KvmVcpu;
use drystone_hypervisor::{Datamatch, Error, Guard, IoAddress, MapOptions, Vcpu, Vm, VmConfig};
use drystone_memory::{Backed, Layout};
use drystone_state::Blob;
use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Cap, VmFd};
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
    config: VmConfig,
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
        if config.pit && !config.irqchip {
            return Err(invalid("create a VM", "its timer needs its interrupt controllers"));
        }
        let fd = create_vm(kvm)?;
        // Intel processors without "unrestricted guest" borrow these pages for real mode; others ignore them. Both
        // calls must come before the first vCPU, the irqchip too.
        let tss = Layout::KVM_RESERVED.start;
        let identity_map = Layout::KVM_RESERVED.end - 0x1000;
        if fd.check_extension(Cap::SetIdentityMapAddr) {
            fd.set_identity_map_address(identity_map)
                .map_err(call(|| format!("place KVM's identity map at {identity_map:#x}")))?;
        }
        fd.set_tss_address(tss as usize)
            .map_err(call(|| format!("place KVM's task state segment at {tss:#x}")))?;
        if config.irqchip {
            create_interrupt_controllers(&fd, config)?;
        }
        let msrs = kvm.get_msr_index_list().map_err(call(|| "list the host's MSRs"))?;
        // Older kernels do not list it.
        let mut msr_list = msrs.as_slice().to_vec();
        if !msr_list.contains(&TSC_DEADLINE) {
            msr_list.push(TSC_DEADLINE);
        }
        let shared = Shared {
            xsave_size: usize::try_from(fd.check_extension_int(Cap::Xsave2)).ok().filter(|&n| n > 0),
            fd,
            slots: Slots::new(kvm.get_nr_memslots()),
            config: *config,
            msr_list,
        };
        let vcpus = Mutex::default();
        Ok(Self { shared: Arc::new(shared), vcpus, max_vcpu_id: kvm.get_max_vcpu_id() })
    }
}

/// Making a VM takes the host a while, and gives up when a signal comes: that is no reason to fail.
fn create_vm(kvm: &kvm_ioctls::Kvm) -> Result<VmFd, Error> {
    loop {
        match kvm.create_vm() {
            Err(e) if e.errno() == libc::EINTR => {}
            done => return done.map_err(call(|| "create a VM")),
        }
    }
}

fn create_interrupt_controllers(fd: &VmFd, config: &VmConfig) -> Result<(), Error> {
    let missing = |what: &str| Error::Missing { what: what.into() };
    if !fd.check_extension(Cap::Irqchip) || !fd.check_extension(Cap::Irqfd) {
        return Err(missing("interrupt controllers (KVM_CAP_IRQCHIP, KVM_CAP_IRQFD)"));
    }
    fd.create_irq_chip().map_err(call(|| "create the interrupt controllers"))?;
    if !config.pit {
        return Ok(());
    }
    if !fd.check_extension(Cap::Pit2) {
        return Err(missing("timer (KVM_CAP_PIT2)"));
    }
    // The dummy answers port 0x61 inside KVM: Linux polls it to calibrate its clocks.
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    fd.create_pit2(pit).map_err(call(|| "create the timer"))
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
        self.shared.needs_irqchip(attempt)?;
        self.shared.fd.set_irq_line(gsi, high).map_err(call(attempt))
    }

    fn register_irqfd(&self, event: &EventFd, gsi: u32) -> Result<Guard, Error> {
        events::register_irqfd(&self.shared, event, gsi)
    }

    fn register_ioeventfd(
        &self,
        event: &EventFd,
        addr: IoAddress,
        datamatch: Option<Datamatch>,
    ) -> Result<Guard, Error> {
        events::register_ioeventfd(&self.shared, event, addr, datamatch)
    }

    fn dirty_log(&self, guest_base: u64) -> Result<Vec<u64>, Error> {
        self.shared.slots.dirty_log(&self.shared.fd, guest_base)
    }

    fn save(&self) -> Result<Blob, Error> {
        state::save(&self.shared.fd, &self.shared.config)
    }

    fn restore(&self, blob: &Blob) -> Result<(), Error> {
        state::restore(&self.shared.fd, &self.shared.config, blob)
    }
}

impl Shared {
    pub(crate) fn has_irqchip(&self) -> bool {
        self.config.irqchip
    }

    fn needs_irqchip(&self, attempt: impl FnOnce() -> String) -> Result<(), Error> {
        if self.config.irqchip {
            return Ok(());
        }
        // What KVM says (EAGAIN, ENXIO) would not help anybody.
        let cause = std::io::Error::other("the VM has no interrupt controllers");
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
