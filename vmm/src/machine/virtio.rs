use super::MachineError;
use crate::config::Config;
use crate::monitor::Handle;
use acpi_tables::Aml;
use drystone_block::Block;
use drystone_bus::{Bus, BusDevice, SystemClock};
use drystone_hypervisor::{Datamatch, Guard, IoAddress, Vm};
use drystone_lifecycle::{Cause, Orchestrator, Stage};
use drystone_memory::{Layout, RamView};
use drystone_observe::{Log, Observe, Quota, Registry, Throttle};
use drystone_rng::{Rng, RngConfig};
use drystone_runner::{Attachment, Doorbells, Runner};
use drystone_state::Component;
use drystone_virtio::{Event, Host, Mmio, MmioConfig, Observer, VirtioDevice};
use std::num::NonZeroUsize;
use std::sync::Arc;

/// Interrupt lines for virtio-mmio devices: what a PC's own devices leave, and then the I/O APIC's upper inputs.
const LINES: &[u32] = &[5, 6, 7, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23];
/// The most devices there are lines for.
pub(crate) const MAX_DEVICES: usize = LINES.len();

type Memory = RamView;

/// The machine's virtio devices behind virtio-mmio, and the threads that run them.
pub(super) struct Virtio {
    /// Dropped first, so that no worker runs when the devices go.
    attachments: Vec<Attachment>,
    slots: Vec<Slot>,
    /// Interrupt and doorbell wires.
    wires: Vec<Guard>,
    runner: Option<Runner>,
}

struct Slot {
    name: String,
    mmio: Arc<Mmio<Memory>>,
}

/// What devices are made with.
pub(super) struct Parts<'a> {
    pub(super) vm: &'a dyn Vm,
    pub(super) bus: &'a Bus,
    pub(super) memory: Memory,
    pub(super) handle: &'a Handle,
    pub(super) log: &'a Log,
    pub(super) registry: &'a Registry,
}

impl Virtio {
    /// Makes all that `config` names and puts them on the bus.
    pub(super) fn new(config: &Config, parts: &Parts<'_>) -> Result<Self, MachineError> {
        let mut virtio = Self { attachments: Vec::new(), slots: Vec::new(), wires: Vec::new(), runner: None };
        for (index, disk) in config.disk.iter().enumerate() {
            let what = |what| MachineError::Disk { name: disk.name(index), what };
            let block = disk.block(index).map_err(what)?;
            let (device, handle) = Block::open(&block, host(parts.handle))?;
            virtio.add(&format!("block.{}", block.id), Box::new(device), Arc::new(handle), parts)?;
        }
        if config.rng {
            let (device, counters) = Rng::open(&RngConfig::default())?;
            virtio.add("rng", Box::new(device), counters, parts)?;
        }
        Ok(virtio)
    }

    fn add(
        &mut self,
        name: &str,
        device: Box<dyn VirtioDevice<Memory>>,
        observe: Arc<dyn Observe>,
        parts: &Parts<'_>,
    ) -> Result<(), MachineError> {
        let n = self.slots.len();
        let gsi = *LINES.get(n).ok_or(MachineError::TooManyDevices { most: MAX_DEVICES })?;
        let (base, index) = place(n);
        let (event, wire) = super::devices::wire(parts.vm, gsi)?;

        let doorbells = Arc::new(Doorbells::new(device.describe().queue_sizes.len()).map_err(events(gsi))?);
        let log = parts.log.named(name);
        let host = Host {
            observer: Arc::new(Reporter(Throttle::new(log, Quota::default()))),
            ..Host::new(doorbells.clone())
        };
        let config = MmioConfig { base, gsi, index, shared_memory: Vec::new() };
        let mmio = Mmio::new(config, device, parts.memory.clone(), Arc::new(event), host)?;
        let mmio = Arc::new(mmio);
        parts.bus.mmio.insert(base.into(), Mmio::<Memory>::LEN, mmio.clone() as Arc<dyn BusDevice>)?;
        parts.registry.add(name, observe)?;

        self.wires.push(wire);
        self.ring(&mmio, &doorbells, parts.vm)?;
        let runner = self.runner()?;
        self.attachments.push(runner.attach(mmio.core(), &doorbells)?);
        self.slots.push(Slot { name: name.into(), mmio });
        Ok(())
    }

    /// Has the hypervisor turn the driver's notifications into events, so that they cost the guest no exit to here.
    fn ring(&mut self, mmio: &Mmio<Memory>, doorbells: &Doorbells, vm: &dyn Vm) -> Result<(), MachineError> {
        for notification in mmio.notifications() {
            let Some(event) = doorbells.event(notification.queue) else { continue };
            let address = IoAddress::Mmio(u64::from(mmio.config().base) + notification.offset);
            let datamatch = notification.datamatch.map(|value| Datamatch { value, len: notification.width });
            self.wires.push(vm.register_ioeventfd(event, address, datamatch)?);
        }
        Ok(())
    }

    /// One thread for all, until somebody shows that more are faster.
    fn runner(&mut self) -> Result<Runner, MachineError> {
        let runner = match self.runner.take() {
            Some(runner) => runner,
            None => Runner::new("virtio", NonZeroUsize::MIN)?,
        };
        self.runner = Some(runner.clone());
        Ok(runner)
    }

    /// Hands them to the orchestrator: after the vCPUs, before the interrupt controllers.
    pub(super) fn register(&self, orchestrator: &mut Orchestrator) -> Result<(), MachineError> {
        for Slot { name, mmio } in &self.slots {
            orchestrator.add(Stage::Devices, name.clone(), mmio.clone() as Arc<dyn Component>)?;
        }
        if let Some(runner) = &self.runner {
            orchestrator.add(Stage::Backends, "runner", Arc::new(runner.clone()))?;
        }
        Ok(())
    }

    /// What the guest finds them by.
    pub(super) fn aml(&self) -> Vec<Arc<dyn Aml + Send + Sync>> {
        self.slots.iter().map(|s| s.mmio.clone() as Arc<dyn Aml + Send + Sync>).collect()
    }
}

/// Where the `n`th device's registers are, and its number.
fn place(n: usize) -> (u32, u16) {
    let base = Layout::PLATFORM.start + n as u64 * Mmio::<Memory>::LEN;
    (u32::try_from(base).unwrap_or(0), n as u16)
}

fn host(handle: &Handle) -> drystone_block::Host {
    let handle = handle.clone();
    drystone_block::Host {
        clock: Arc::new(SystemClock::new()),
        on_failure: Arc::new(move |failure| handle.end(Cause::Fault(failure.to_string()))),
    }
}

fn events(line: u32) -> impl Fn(std::io::Error) -> MachineError {
    move |cause| MachineError::Event { line, cause }
}

/// Puts a device's events into the log, a few a minute.
struct Reporter(Throttle);

impl Observer for Reporter {
    fn event(&self, event: &Event<'_>) {
        self.0.warn(event);
    }
}
