use crate::aml::system_bus_device;
use crate::{Ged, GedEvent, GedFull};
use acpi_tables::aml::{EISAName, Name, Notify, Path};
use acpi_tables::{Aml, AmlSink};
use drystone_bus::Interrupt;

/// The notification "pressed" of a button in the namespace (ACPI 6.5, 4.8.2.2.1.2).
const PRESSED: u8 = 0x80;

/// A power button as a device in the ACPI namespace, for machines without fixed hardware.
pub struct PowerButton(GedEvent);

impl PowerButton {
    /// A button that nobody has pressed, told of by `ged`, which also has its state.
    ///
    /// # Errors
    /// [`GedFull`].
    pub fn new(ged: &mut Ged) -> Result<Self, GedFull> {
        Ok(Self(ged.add(&Notify::new(&Path::new("\\_SB_.PWRB"), &PRESSED))?))
    }

    /// Presses it. What comes of it is up to the guest: usually it shuts down and switches itself off, some time
    /// later; it may also do nothing.
    pub fn press(&self) {
        self.0.trigger();
    }
}

/// The device `\_SB.PWRB` (PNP0C0C).
impl Aml for PowerButton {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        system_bus_device("PWRB", vec![&Name::new("_HID".into(), &EISAName::new("PNP0C0C"))], sink);
    }
}
