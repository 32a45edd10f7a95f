use super::Serial;
use crate::aml::system_bus_device;
use acpi_tables::aml::{EISAName, IO, Interrupt, Name, ResourceTemplate};
use acpi_tables::{Aml, AmlSink};

/// A PNP0501 ("16550A-compatible COM port") device below `\_SB`, with its ports and its interrupt
/// (edge-triggered, active high, exclusive).
impl Aml for Serial {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let config = self.config();
        let io = IO::new(config.base, config.base, 1, 8);
        let irq = Interrupt::new(true, true, false, false, config.irq);
        let name = match config.index {
            0 => "COM1",
            1 => "COM2",
            2 => "COM3",
            _ => "COM4",
        };
        system_bus_device(
            name,
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0501")),
                &Name::new("_UID".into(), &config.index),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&io, &irq])),
            ],
            sink,
        );
    }
}
