use super::MachineError;
use crate::config::PciConfig;
use acpi_tables::Aml;
use drystone_bus::Bus;
use drystone_lifecycle::{Orchestrator, Stage};
use drystone_loader::acpi::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use drystone_memory::Layout;
use drystone_pci::{Attachment, ConfigPorts, HostBridge, Segment, Windows};
use std::ops::Range;
use std::sync::Arc;

/// The machine's PCI segment.
pub(super) struct Pci {
    bridge: Arc<HostBridge>,
    attachment: Arc<Attachment>,
    ports: Option<Arc<ConfigPorts>>,
}

impl Pci {
    /// An empty bus, in the places that `layout` has for it.
    pub(super) fn new(layout: &Layout, config: &PciConfig, bus: Arc<Bus>) -> Result<Self, MachineError> {
        let windows = Windows {
            memory_32: layout.window_32(),
            memory_64: layout.window_64(),
            // Modern devices need no ports.
            io: 0..0,
        };
        let bridge = Arc::new(HostBridge::new());
        let segment = Arc::new(Segment::new(0, windows, bridge.clone())?);
        let ports = config.config_ports.then(|| Arc::new(ConfigPorts::new(segment.clone())));
        if let Some(ports) = &ports {
            bus.pio.insert(ConfigPorts::BASE.into(), ConfigPorts::LEN, ports.clone())?;
        }
        let attachment = Arc::new(Attachment::new(segment, bus, Layout::ECAM.start)?);
        Ok(Self { bridge, attachment, ports })
    }

    pub(super) fn register(&self, orchestrator: &mut Orchestrator) -> Result<(), MachineError> {
        orchestrator.add(Stage::Devices, "pci-bridge", self.bridge.clone())?;
        if let Some(ports) = &self.ports {
            orchestrator.add(Stage::Devices, "pci-config-ports", ports.clone())?;
        }
        orchestrator.add(Stage::Devices, "pci", self.attachment.clone())?;
        Ok(())
    }

    /// How ACPI describes it, beside the MCFG.
    pub(super) fn aml(&self) -> Arc<Attachment> {
        self.attachment.clone()
    }

    /// The table that says where its configuration space is.
    pub(super) fn mcfg(&self) -> impl Aml + Send + Sync + use<> {
        drystone_pci::mcfg(OEM_ID, OEM_TABLE_ID, OEM_REVISION, &[&self.attachment])
    }

    /// What the guest's memory map must not offer as RAM.
    pub(super) fn reserved(&self) -> Range<u64> {
        self.attachment.ecam()
    }
}
