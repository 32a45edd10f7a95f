use crate::memory::Slots;
use crate::state;
use crate::vcpu::KvmVcpu;
use drystone_hypervisor::{Capabilities, Datamatch, Error, Guard, IoAddress, MapOptions, Vcpu, Vm, VmConfig};
use drystone_memory::{Backed, Layout};
use drystone_state::Blob;
use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use std::io;
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

/// What outlives a VM's handle as long as a guard or a vCPU needs it.
pub(crate) struct Inner {
    pub(crate) fd: VmFd,
    pub(crate) slots: Slots,
    pub(crate) kvm: Arc<kvm_ioctls::Kvm>,
    pub(crate) config: VmConfig,
    max_vcpus: u32,
}

pub(crate) struct KvmVm(Arc<Inner>);

/// Turns an errno into an [`Error::Call`] about `attempt`.
pub(crate) fn call(attempt: impl Into<String>) -> impl FnOnce(kvm_ioctls::Error) -> Error {
    let attempt = attempt.into();
    |e| Error::Call { attempt, cause: e.into() }
}

impl KvmVm {
    pub(crate) fn new(
        kvm: Arc<kvm_ioctls::Kvm>,
        capabilities: Capabilities,
        config: &VmConfig,
    ) -> Result<Self, Error> {
        if config.irqchip && !capabilities.irqchip {
            return Err(Error::Missing {
                what: "interrupt controller (KVM_CAP_IRQCHIP, KVM_CAP_IRQFD)".into(),
            });
        }
        if config.pit && !config.irqchip {
            let why = "the timer needs the interrupt controllers".into();
            return Err(Error::Invalid { attempt: "create a VM with a PIT".into(), why });
        }
        let fd = create(&kvm)?;
        let reserved = Layout::KVM_RESERVED.start;
        // The identity map's page first, then the TSS's three: both before the first vCPU (KVM API, 4.36, 4.43).
        fd.set_identity_map_address(reserved + 0x3000).map_err(call("set the identity map's address"))?;
        let tss = usize::try_from(reserved).unwrap_or(0);
        fd.set_tss_address(tss).map_err(call("set the TSS's address"))?;
        if config.irqchip {
            fd.create_irq_chip().map_err(call("create the interrupt controllers"))?;
        }
        if config.pit {
            let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
            fd.create_pit2(pit).map_err(call("create the timer"))?;
        }
        let slots = Slots::new(capabilities.memory_slots);
        Ok(Self(Arc::new(Inner { fd, slots, kvm, config: *config, max_vcpus: capabilities.max_vcpus })))
    }
}

/// KVM_CREATE_VM can be interrupted by a signal before it has done anything.
fn create(kvm: &kvm_ioctls::Kvm) -> Result<VmFd, Error> {
    loop {
        match kvm.create_vm() {
            Err(e) if e.errno() == libc::EINTR => {}
            result => return result.map_err(call("create a VM")),
        }
    }
}

impl Vm for KvmVm {
    fn map_memory(&self, region: Arc<dyn Backed>, options: MapOptions) -> Result<Guard, Error> {
        let inner = self.0.clone();
        let slot = inner.slots.map(&inner.fd, region, options)?;
        Ok(Guard::new(move || inner.slots.unmap(&inner.fd, slot)))
    }

    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, Error> {
        if id >= self.0.max_vcpus {
            let why = format!("this host's KVM has at most {}", self.0.max_vcpus);
            return Err(Error::Invalid { attempt: format!("create vCPU {id}"), why });
        }
        let fd = self.0.fd.create_vcpu(id.into()).map_err(|e| match e.errno() {
            libc::EEXIST => {
                Error::Invalid { attempt: format!("create vCPU {id}"), why: "its number is in use".into() }
            }
            _ => call(format!("create vCPU {id}"))(e),
        })?;
        Ok(Box::new(KvmVcpu::new(fd, id, self.0.clone())?))
    }

    fn set_irq_line(&self, gsi: u32, high: bool) -> Result<(), Error> {
        self.0.fd.set_irq_line(gsi, high).map_err(call(format!("set interrupt line {gsi}")))
    }

    fn register_irqfd(&self, event: &EventFd, gsi: u32) -> Result<Guard, Error> {
        let attempt = format!("wire an event to interrupt line {gsi}");
        let own = duplicate(event, &attempt)?;
        self.0.fd.register_irqfd(&own, gsi).map_err(call(attempt))?;
        let inner = self.0.clone();
        Ok(Guard::new(move || {
            let _ = inner.fd.unregister_irqfd(&own, gsi);
        }))
    }

    fn register_ioeventfd(
        &self,
        event: &EventFd,
        addr: IoAddress,
        datamatch: Option<Datamatch>,
    ) -> Result<Guard, Error> {
        let attempt = format!("put a doorbell at {addr:x?}");
        let own = duplicate(event, &attempt)?;
        doorbell(&self.0.fd, &own, addr, datamatch, true, &attempt)?;
        let inner = self.0.clone();
        Ok(Guard::new(move || drop(doorbell(&inner.fd, &own, addr, datamatch, false, &attempt))))
    }

    fn dirty_log(&self, guest_base: u64) -> Result<Vec<u64>, Error> {
        let attempt = format!("read the dirty log of memory at {guest_base:#x}");
        let Some((slot, len)) = self.0.slots.logged(guest_base) else {
            return Err(Error::Invalid { attempt, why: "no such memory is mapped with a log".into() });
        };
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.0.fd.get_dirty_log(slot, len).map_err(call(attempt))
    }

    fn save(&self) -> Result<Blob, Error> {
        state::save_vm(&self.0)
    }
    fn restore(&self, blob: &Blob) -> Result<(), Error> {
        state::restore_vm(&self.0, blob)
    }
}

/// KVM identifies a registration by the event's file: we keep a descriptor of our own, so that it can be undone
/// whatever becomes of the caller's.
fn duplicate(event: &EventFd, attempt: &str) -> Result<EventFd, Error> {
    event.try_clone().map_err(|cause: io::Error| Error::Call { attempt: attempt.into(), cause })
}

/// Registers or unregisters an ioeventfd. The width that is matched is the type of the value (KVM API, 4.59).
fn doorbell(
    vm: &VmFd,
    event: &EventFd,
    addr: IoAddress,
    datamatch: Option<Datamatch>,
    register: bool,
    attempt: &str,
) -> Result<(), Error> {
    let at = match addr {
        IoAddress::Pio(port) => IoEventAddress::Pio(port.into()),
        IoAddress::Mmio(addr) => IoEventAddress::Mmio(addr),
    };
    macro_rules! with {
        ($value:expr) => {
            if register {
                vm.register_ioevent(event, &at, $value)
            } else {
                vm.unregister_ioevent(event, &at, $value)
            }
        };
    }
    let bad = |why: String| Error::Invalid { attempt: attempt.into(), why };
    let done = match datamatch {
        None => with!(NoDatamatch),
        Some(Datamatch { value, len }) => {
            let too_wide = || bad(format!("{value:#x} is wider than {len} bytes"));
            match len {
                1 => with!(u8::try_from(value).map_err(|_| too_wide())?),
                2 => with!(u16::try_from(value).map_err(|_| too_wide())?),
                4 => with!(u32::try_from(value).map_err(|_| too_wide())?),
                8 => with!(value),
                _ => return Err(bad(format!("a write of {len} bytes does not exist"))),
            }
        }
    };
    done.map_err(call(attempt))
}
