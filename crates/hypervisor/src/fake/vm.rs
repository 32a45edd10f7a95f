use super::deferred::Deferred;
use super::irq::{Irqs, Lines, Target};
use super::memory::Slots;
use super::rendezvous::Rendezvous;
use super::route::FakeRoute;
use super::vcpu::FakeVcpu;
use super::{FakeHypervisor, lock};
use crate::{
    Clocks, Datamatch, DirtyTracking, Error, Guard, InterruptControllers, IoAddress, MapOptions, Msi,
    MsiRoute, MsrFilter, Vcpu, Vm, VmConfig,
};
use drystone_memory::Backed;
use drystone_state::{Blob, Schema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, Weak};
use vmm_sys_util::eventfd::EventFd;

pub(super) const MAX_VCPUS: u32 = 255;
const MIN_RING: u32 = 1024;
/// As on KVM. There are no rings in here, and none is ever full.
pub(super) const MAX_RING: u32 = 0x1_0000;

struct Doorbell {
    event: EventFd,
    addr: IoAddress,
    datamatch: Option<Datamatch>,
    token: u64,
}

/// What the vCPUs of a VM share.
pub(super) struct Shared {
    pub(super) slots: Slots,
    /// None in a VM without interrupt controllers.
    pub(super) irqs: Option<Irqs>,
    pub(super) msrs: MsrFilter,
    pub(super) deferred: Deferred,
    doorbells: Mutex<Vec<Doorbell>>,
    vcpus: Mutex<BTreeMap<u32, Weak<Rendezvous>>>,
}

impl Shared {
    /// Rings the doorbell for this write, if there is one.
    pub(super) fn ring(&self, addr: IoAddress, data: &[u8]) -> bool {
        let matches = |d: &&Doorbell| {
            d.addr == addr
                && d.datamatch.is_none_or(|m| {
                    usize::from(m.len) == data.len() && m.value.to_le_bytes().starts_with(data)
                })
        };
        let doorbells = lock(&self.doorbells);
        let Some(doorbell) = doorbells.iter().find(matches) else { return false };
        // A full counter says already what this write would.
        let _ = doorbell.event.write(1);
        true
    }

    pub(super) fn wake_all(&self) {
        let vcpus: Vec<_> = lock(&self.vcpus).values().filter_map(Weak::upgrade).collect();
        vcpus.iter().for_each(|v| v.wake());
    }

    pub(super) fn irqs(&self, attempt: impl FnOnce() -> String) -> Result<&Irqs, Error> {
        self.irqs.as_ref().ok_or_else(|| Error::Call {
            attempt: attempt(),
            cause: io::Error::other("the VM has no interrupt controller"),
        })
    }
}

/// What is saved of a VM.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FakeVmState {
    interrupts: Option<Lines>,
}

impl Schema for FakeVmState {
    const KIND: &'static str = "fake-vm";
    const VERSION: u32 = 1;
}

pub(super) struct FakeVm {
    host: FakeHypervisor,
    shared: Arc<Shared>,
}

impl FakeVm {
    pub(super) fn new(host: &FakeHypervisor, config: &VmConfig) -> Result<Self, Error> {
        check(config)?;
        let failed = |cause| Error::Call { attempt: "create a VM".into(), cause };
        let irqs = match config.interrupts {
            InterruptControllers::None => None,
            controllers => Some(Irqs::new(controllers == InterruptControllers::Full).map_err(failed)?),
        };
        let shared = Arc::new(Shared {
            slots: Slots::default(),
            irqs,
            msrs: config.msrs.clone(),
            deferred: Deferred::default(),
            doorbells: Mutex::default(),
            vcpus: Mutex::default(),
        });
        if let Some(irqs) = &shared.irqs {
            let vm = Arc::downgrade(&shared);
            let notify = move || {
                let Some(vm) = vm.upgrade() else { return false };
                vm.irqs.iter().for_each(Irqs::collect);
                vm.wake_all();
                true
            };
            irqs.watch(notify).map_err(failed)?;
        }
        Ok(Self { host: host.clone(), shared })
    }
}

/// Refuses what KVM refuses.
fn check(config: &VmConfig) -> Result<(), Error> {
    let invalid = |why: &str| Err(Error::Invalid { attempt: "create a VM".into(), why: why.into() });
    if config.pit && config.interrupts != InterruptControllers::Full {
        return invalid("its timer needs all of its interrupt controllers");
    }
    if let DirtyTracking::Ring { entries } = config.dirty
        && (!entries.is_power_of_two() || !(MIN_RING..=MAX_RING).contains(&entries))
    {
        return invalid("its dirty rings need a power of two of entries, from 1024 to 65536");
    }
    if config.halt_poll.is_some_and(|limit| u32::try_from(limit.as_nanos()).is_err()) {
        return invalid("its limit of halt polling is too long");
    }
    Ok(())
}

impl Vm for FakeVm {
    fn map_memory(&self, region: Arc<dyn Backed>, options: MapOptions) -> Result<Guard, Error> {
        let base = region.guest_base();
        self.shared.slots.map(region, options)?;
        let shared = self.shared.clone();
        Ok(Guard::new(move || shared.slots.unmap(base)))
    }

    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, Error> {
        let invalid = |why: &str| Error::Invalid { attempt: format!("create vCPU {id}"), why: why.into() };
        if id >= MAX_VCPUS {
            return Err(invalid("the number is too large"));
        }
        let mut vcpus = lock(&self.shared.vcpus);
        if vcpus.contains_key(&id) {
            return Err(invalid("the number was used before"));
        }
        let vcpu = FakeVcpu::new(id, &self.host, self.shared.clone());
        vcpus.insert(id, Arc::downgrade(vcpu.rendezvous()));
        self.shared.irqs.iter().for_each(|irqs| irqs.add_vcpu(id));
        Ok(Box::new(vcpu))
    }

    fn set_irq_line(&self, gsi: u32, high: bool) -> Result<(), Error> {
        let irqs = self.shared.irqs(|| format!("set interrupt line {gsi}"))?;
        if irqs.set_line(gsi, high)? {
            self.shared.wake_all();
        }
        Ok(())
    }

    fn register_irqfd(&self, event: &EventFd, gsi: u32) -> Result<Guard, Error> {
        let irqs = self.shared.irqs(|| format!("wire an event to interrupt {gsi}"))?;
        let token = irqs.register(event, Target::Line(gsi))?;
        let shared = self.shared.clone();
        Ok(Guard::new(move || shared.irqs.iter().for_each(|irqs| irqs.unregister(token))))
    }

    fn signal_msi(&self, message: Msi) -> Result<(), Error> {
        self.shared.irqs(|| "send an interrupt message".into())?.send(message);
        self.shared.wake_all();
        Ok(())
    }

    fn create_msi_route(&self, event: &EventFd) -> Result<Box<dyn MsiRoute>, Error> {
        Ok(Box::new(FakeRoute::new(self.shared.clone(), event, None)?))
    }

    fn create_pin_route(&self, pin: u32, event: &EventFd) -> Result<Box<dyn MsiRoute>, Error> {
        Ok(Box::new(FakeRoute::new(self.shared.clone(), event, Some(pin))?))
    }

    fn register_ioeventfd(
        &self,
        event: &EventFd,
        addr: IoAddress,
        datamatch: Option<Datamatch>,
    ) -> Result<Guard, Error> {
        let attempt = || format!("register a doorbell at {addr:x?}");
        if let Some(Datamatch { value, len }) = datamatch {
            let why = match len {
                1 | 2 | 4 if value >> (len * 8) != 0 => format!("{value:#x} does not fit into {len} bytes"),
                1 | 2 | 4 | 8 => String::new(),
                _ => "its width is not 1, 2, 4 or 8 bytes".into(),
            };
            if !why.is_empty() {
                return Err(Error::Invalid { attempt: attempt(), why });
            }
        }
        let failed = |cause| Error::Call { attempt: attempt(), cause };
        let event = event.try_clone().map_err(failed)?;
        let mut doorbells = lock(&self.shared.doorbells);
        let collides = |d: &Doorbell| {
            let both = d.datamatch.zip(datamatch);
            d.addr == addr && both.is_none_or(|(a, b)| a == b)
        };
        if doorbells.iter().any(collides) {
            return Err(failed(io::ErrorKind::AlreadyExists.into()));
        }
        let token = doorbells.iter().map(|d| d.token + 1).max().unwrap_or(0);
        doorbells.push(Doorbell { event, addr, datamatch, token });
        let shared = self.shared.clone();
        Ok(Guard::new(move || lock(&shared.doorbells).retain(|d| d.token != token)))
    }

    fn defer_writes(&self, port: u16, len: u16) -> Result<Guard, Error> {
        let ports = self.shared.deferred.add(port, len)?;
        let shared = self.shared.clone();
        Ok(Guard::new(move || shared.deferred.remove(&ports)))
    }

    fn dirty_log(&self, guest_base: u64) -> Result<Vec<u64>, Error> {
        self.shared.slots.take_dirty(guest_base)
    }

    fn save(&self) -> Result<Blob, Error> {
        let interrupts = self.shared.irqs.as_ref().map(Irqs::save);
        Blob::encode(&FakeVmState { interrupts })
            .map_err(|e| Error::Invalid { attempt: "save the VM".into(), why: e.to_string() })
    }

    // Its guests have no clocks.
    fn restore(&self, state: &Blob, _: Clocks) -> Result<(), Error> {
        let invalid = |why: String| Error::Invalid { attempt: "restore the VM".into(), why };
        let state: FakeVmState = state.decode().map_err(|e| invalid(e.to_string()))?;
        match (&self.shared.irqs, &state.interrupts) {
            (Some(irqs), Some(lines)) if irqs.restore(lines) => {}
            (None, None) => {}
            _ => return Err(invalid("it is of a VM with other interrupt controllers".into())),
        }
        self.shared.wake_all();
        Ok(())
    }
}
