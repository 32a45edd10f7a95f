//! Which interrupt number (GSI) leads where. KVM takes the table as a whole, so it is kept here, the lines of the
//! interrupt controllers included.

use super::create::{IOAPIC_PINS, require};
use super::{Shared, lock, must_succeed};
use crate::error::{call, invalid};
use drystone_hypervisor::{Error, InterruptControllers, Msi, MsiRoute};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_irqchip, kvm_irq_routing_msi, kvm_msi,
};
use kvm_ioctls::{Cap, VmFd};
use std::collections::{BTreeMap, btree_map::Entry};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use vmm_sys_util::eventfd::EventFd;

/// KVM_IRQCHIP_PIC_MASTER.
const PIC_MASTER: u32 = 0;
/// KVM_IRQCHIP_PIC_SLAVE.
const PIC_SLAVE: u32 = 1;
/// KVM_IRQCHIP_IOAPIC.
const IOAPIC: u32 = 2;

/// The table of a VM.
pub(super) struct Routes {
    /// The interrupt controllers' inputs, as KVM wires them when it makes them.
    lines: Vec<kvm_irq_routing_entry>,
    /// Numbers of messages, from [`IOAPIC_PINS`] on, or of the VMM's pins, below; `None` until the message is first set.
    messages: Mutex<BTreeMap<u32, Option<Msi>>>,
    /// How many numbers KVM knows.
    max: u32,
}

impl Routes {
    pub(super) fn new(controllers: InterruptControllers, max: i32) -> Self {
        let has_lines = controllers == InterruptControllers::Full;
        let lines = if has_lines { (0..IOAPIC_PINS).flat_map(line).collect() } else { Vec::new() };
        Self { lines, messages: Mutex::default(), max: max.try_into().unwrap_or(0) }
    }

    fn allocate(&self) -> Result<u32, Error> {
        let mut messages = lock(&self.messages);
        let free = (IOAPIC_PINS..self.max).find(|number| !messages.contains_key(number));
        let number = free.ok_or_else(|| {
            let most = self.max.saturating_sub(IOAPIC_PINS);
            invalid("make one more interrupt message", format!("all {most} are taken"))
        })?;
        messages.insert(number, None);
        Ok(number)
    }

    fn take_pin(&self, pin: u32) -> Result<(), Error> {
        let attempt = || format!("use the pin {pin} of an I/O APIC");
        if pin >= IOAPIC_PINS {
            return Err(invalid(attempt(), format!("there are {IOAPIC_PINS}")));
        }
        match lock(&self.messages).entry(pin) {
            Entry::Occupied(_) => Err(invalid(attempt(), "it is in use")),
            Entry::Vacant(free) => {
                free.insert(None);
                Ok(())
            }
        }
    }

    /// KVM keeps what it was told of this number until the next change; nothing uses it meanwhile.
    fn free(&self, number: u32) {
        lock(&self.messages).remove(&number);
    }

    /// The lock is held over KVM's call: the table that it is given last is the newest.
    fn set(&self, fd: &VmFd, number: u32, message: Msi) -> Result<(), Error> {
        let mut messages = lock(&self.messages);
        let old = messages.insert(number, Some(message)).flatten();
        if old == Some(message) {
            return Ok(());
        }
        let set = self.install(fd, &messages);
        if set.is_err() {
            messages.insert(number, old);
        }
        set
    }

    fn install(&self, fd: &VmFd, messages: &BTreeMap<u32, Option<Msi>>) -> Result<(), Error> {
        let attempt = || "set the interrupt routes";
        let set = messages.iter().filter_map(|(&number, &message)| Some(route(number, message?)));
        let entries: Vec<_> = self.lines.iter().copied().chain(set).collect();
        let table =
            KvmIrqRouting::from_entries(&entries).map_err(|e| invalid(attempt(), format!("{e:?}")))?;
        fd.set_gsi_routing(&table).map_err(call(attempt))
    }
}

/// The first 16 lines are inputs of a PIC and of the I/O APIC, the others of the I/O APIC alone.
fn line(gsi: u32) -> impl Iterator<Item = kvm_irq_routing_entry> {
    let entry = move |irqchip, pin| {
        let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
        entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
        entry
    };
    let pic = match gsi {
        0..8 => Some(entry(PIC_MASTER, gsi)),
        8..16 => Some(entry(PIC_SLAVE, gsi - 8)),
        _ => None,
    };
    pic.into_iter().chain([entry(IOAPIC, gsi)])
}

fn route(gsi: u32, message: Msi) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    let (address_lo, address_hi) = halves(message.address);
    entry.u.msi = kvm_irq_routing_msi { address_lo, address_hi, data: message.data, ..Default::default() };
    entry
}

fn halves(address: u64) -> (u32, u32) {
    (address as u32, (address >> 32) as u32)
}

pub(super) fn signal(shared: &Shared, message: Msi) -> Result<(), Error> {
    let attempt = || format!("send the interrupt message {:#x} to {:#x}", message.data, message.address);
    shared.needs_local_apics(attempt)?;
    require(&shared.fd, &[Cap::SignalMsi], "interrupt messages (KVM_CAP_SIGNAL_MSI)")?;
    let (address_lo, address_hi) = halves(message.address);
    let message = kvm_msi { address_lo, address_hi, data: message.data, ..Default::default() };
    match shared.fd.signal_msi(message) {
        Ok(_) => Ok(()),
        // No local APIC has that ID: KVM's own return value of -1, which reads as this error.
        Err(e) if e.errno() == libc::EPERM => Ok(()),
        Err(e) => Err(call(attempt)(e)),
    }
}

/// A route for `event`: of any number, or of a pin of the VMM's I/O APIC.
pub(super) fn create(
    shared: &Arc<Shared>,
    event: &EventFd,
    pin: Option<u32>,
) -> Result<Box<dyn MsiRoute>, Error> {
    let attempt = || "wire an event to an interrupt message".to_owned();
    shared.needs_local_apics(attempt)?;
    let what = "interrupt messages (KVM_CAP_IRQ_ROUTING, KVM_CAP_IRQFD)";
    require(&shared.fd, &[Cap::IrqRouting, Cap::Irqfd], what)?;
    // A copy of the descriptor: the caller's may be closed before this is dropped.
    let event = event.try_clone().map_err(|cause| Error::Call { attempt: attempt(), cause })?;
    let gsi = match pin {
        None => shared.routes.allocate()?,
        Some(_) if shared.config.interrupts != InterruptControllers::Split => {
            let cause = std::io::Error::other("the VM has an I/O APIC of its own");
            return Err(Error::Call { attempt: attempt(), cause });
        }
        Some(pin) => shared.routes.take_pin(pin).map(|()| pin)?,
    };
    Ok(Box::new(Route { vm: shared.clone(), gsi, event, wired: Mutex::new(false) }))
}

/// An event that KVM takes while it is wired. While it is not, the event keeps what is written to it.
struct Route {
    vm: Arc<Shared>,
    gsi: u32,
    event: EventFd,
    wired: Mutex<bool>,
}

impl MsiRoute for Route {
    fn set(&self, message: Option<Msi>) -> Result<(), Error> {
        let mut wired = lock(&self.wired);
        match message {
            Some(message) => {
                self.vm.routes.set(&self.vm.fd, self.gsi, message)?;
                if !*wired {
                    self.wire()?;
                }
                *wired = true;
            }
            None if *wired => {
                self.vm
                    .fd
                    .unregister_irqfd(&self.event, self.gsi)
                    .map_err(call(|| format!("mask the interrupt message of number {}", self.gsi)))?;
                *wired = false;
            }
            None => {}
        }
        Ok(())
    }

    fn is_pending(&self) -> bool {
        !*lock(&self.wired) && is_written(&self.event)
    }
}

impl Route {
    /// KVM looks once whether the event was written before, sends the message if so, and leaves the count in the event,
    /// from where it would come a second time. So what waits is taken out before, and written again after.
    fn wire(&self) -> Result<(), Error> {
        let attempt = || format!("wire an event to the interrupt message of number {}", self.gsi);
        let failed = |cause| Error::Call { attempt: attempt(), cause };
        let waiting = if is_written(&self.event) { self.event.read().map_err(failed)? } else { 0 };
        let wired = self.vm.fd.register_irqfd(&self.event, self.gsi).map_err(call(attempt));
        // Of an event that was written in between, 0 more makes KVM take the count.
        if waiting > 0 || (wired.is_ok() && is_written(&self.event)) {
            self.event.write(waiting).map_err(failed)?;
        }
        wired
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        if *lock(&self.wired) {
            must_succeed(self.vm.fd.unregister_irqfd(&self.event, self.gsi), "unregister an irqfd");
        }
        self.vm.routes.free(self.gsi);
    }
}

/// Whether somebody wrote `event` and nobody has read it.
fn is_written(event: &EventFd) -> bool {
    let mut look = libc::pollfd { fd: event.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: poll writes to `look`, which is one pollfd and lives until it returns; it does not wait.
    unsafe { libc::poll(&mut look, 1, 0) == 1 }
}
