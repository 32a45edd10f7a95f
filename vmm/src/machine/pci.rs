use super::MachineError;
use crate::config::PciConfig;
use crate::monitor::Handle;
use acpi_tables::Aml;
use drystone_bus::{Bus, Clock, Interrupt, SystemClock};
use drystone_chipset::Ged;
use drystone_hypervisor::{Error, Guard, Vm};
use drystone_lifecycle::{Orchestrator, Stage};
use drystone_loader::acpi::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use drystone_memory::Layout;
use drystone_pci::{Attachment, ConfigPorts, HostBridge, HotPlug, HotPlugParts, Segment, Windows};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// The first I/O port of the controller for hot plug.
const HOT_PLUG_PORT: u16 = 0x610;
const SEGMENT: u16 = 0;

/// The machine's PCI segment, in which functions come and go while it runs.
pub(super) struct Pci {
    bridge: Arc<HostBridge>,
    attachment: Arc<Attachment>,
    ports: Option<Arc<ConfigPorts>>,
    /// Writes to their address register are no exits.
    _deferred: Option<Guard>,
    hot_plug: Arc<HotPlug>,
    clock: Arc<SystemClock>,
    bus: Arc<Bus>,
}

/// Tells the monitor that a controller has something for it.
struct Tell(Handle);

impl Interrupt for Tell {
    fn trigger(&self) {
        self.0.hot_plug();
    }
}

/// Linux makes thousands of accesses through these ports while it boots. A host that cannot defer has two exits for each.
fn defer_address(vm: &dyn Vm) -> Result<Option<Guard>, Error> {
    match vm.defer_writes(ConfigPorts::BASE, ConfigPorts::ADDRESS_LEN) {
        Err(Error::Missing { .. }) => Ok(None),
        done => done.map(Some),
    }
}

impl Pci {
    /// An empty bus of `vm`, in the places that `layout` has for it. What happens on it is told to the guest by an event of `ged`, and
    /// to `handle`'s monitor.
    pub(super) fn new(
        vm: &dyn Vm,
        layout: &Layout,
        config: &PciConfig,
        bus: Arc<Bus>,
        ged: &mut Ged,
        handle: &Handle,
    ) -> Result<Self, MachineError> {
        let windows = Windows {
            memory_32: layout.window_32(),
            memory_64: layout.window_64(),
            // Modern devices need no ports.
            io: 0..0,
        };
        let bridge = Arc::new(HostBridge::new());
        let segment = Arc::new(Segment::new(SEGMENT, windows, bridge.clone())?);
        let ports = config.config_ports.then(|| Arc::new(ConfigPorts::new(segment.clone())));
        if let Some(ports) = &ports {
            bus.pio.insert(ConfigPorts::BASE.into(), ConfigPorts::LEN, ports.clone())?;
        }
        let deferred = ports.as_ref().map_or(Ok(None), |_| defer_address(vm))?;
        let clock = Arc::new(SystemClock::new());
        let hot_plug = Arc::new(HotPlug::new(HotPlugParts {
            segment: segment.clone(),
            base: HOT_PLUG_PORT,
            guest: Arc::new(ged.add(&HotPlug::handler(SEGMENT))?),
            host: Arc::new(Tell(handle.clone())),
            clock: clock.clone(),
        }));
        bus.pio.insert(HOT_PLUG_PORT.into(), HotPlug::LEN, hot_plug.clone())?;
        let attachment = Arc::new(Attachment::new(segment, bus.clone(), Layout::ECAM.start)?);
        Ok(Self { bridge, attachment, ports, _deferred: deferred, hot_plug, clock, bus })
    }

    pub(super) fn register(&self, orchestrator: &mut Orchestrator) -> Result<(), MachineError> {
        orchestrator.add(Stage::Devices, "pci-bridge", self.bridge.clone())?;
        if let Some(ports) = &self.ports {
            orchestrator.add(Stage::Devices, "pci-config-ports", ports.clone())?;
        }
        orchestrator.add(Stage::Devices, "pci-hotplug", self.hot_plug.clone())?;
        orchestrator.add(Stage::Devices, "pci", self.attachment.clone())?;
        Ok(())
    }

    /// How ACPI describes it, beside the MCFG; in this order.
    pub(super) fn aml(&self) -> [Arc<dyn Aml + Send + Sync>; 2] {
        [self.attachment.clone(), self.hot_plug.clone()]
    }

    /// The table that says where its configuration space is.
    pub(super) fn mcfg(&self) -> impl Aml + Send + Sync + use<> {
        drystone_pci::mcfg(OEM_ID, OEM_TABLE_ID, OEM_REVISION, &[&self.attachment])
    }

    /// What the guest's memory map must not offer as RAM.
    pub(super) fn reserved(&self) -> Range<u64> {
        self.attachment.ecam()
    }

    /// The slots.
    pub(super) fn segment(&self) -> &Segment {
        self.attachment.segment()
    }

    /// Their controller.
    pub(super) fn hot_plug(&self) -> &HotPlug {
        &self.hot_plug
    }

    /// Takes what is no longer in a slot off the bus.
    pub(super) fn relocate(&self) {
        self.segment().relocate(&self.bus);
    }

    /// How long the guest still has to let go of something that it was asked for.
    pub(super) fn time_left(&self) -> Option<Duration> {
        let deadline = self.hot_plug.next_deadline()?;
        Some(deadline.saturating_sub(self.clock.monotonic()))
    }
}
