use super::I8042;
use crate::aml::system_bus_device;
use acpi_tables::aml::{EISAName, IO, Interrupt, Name, ResourceTemplate};
use acpi_tables::{Aml, AmlSink};
use drystone_bus::{BusDevice, Effect};
use std::sync::Arc;

/// One of the two ports of an [`I8042`], as a device of its own.
#[derive(Clone)]
pub struct I8042Port {
    pub(super) controller: Arc<I8042>,
    pub(super) offset: u64,
}

impl BusDevice for I8042Port {
    fn read(&self, offset: u64, data: &mut [u8]) {
        // One byte wide: what is beyond it is not ours.
        if offset == 0
            && let Some(byte) = data.first_chunk_mut::<1>()
        {
            self.controller.read(self.offset, byte);
        }
    }
    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        match data.first_chunk::<1>() {
            Some(byte) if offset == 0 => self.controller.write(self.offset, byte),
            _ => Effect::None,
        }
    }
}

/// A keyboard, PNP0303, below `\_SB`, with the controller's two ports and its interrupt (edge-triggered, active high,
/// exclusive).
impl Aml for I8042 {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let data = IO::new(Self::DATA_PORT, Self::DATA_PORT, 1, 1);
        let command = IO::new(Self::COMMAND_PORT, Self::COMMAND_PORT, 1, 1);
        let irq = Interrupt::new(true, true, false, false, Self::IRQ);
        system_bus_device(
            "KBD_",
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0303")),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&data, &command, &irq])),
            ],
            sink,
        );
    }
}
