use super::{AcpiPower, EVENTS, POWER_BUTTON, S5};
use crate::aml::system_bus_device;
use acpi_tables::aml::{
    And, EISAName, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If, Interrupt, Local,
    Method, Name, Notify, OpRegion, OpRegionSpace, Package, Path, ResourceTemplate, Store, ZERO,
};
use acpi_tables::{Aml, AmlSink};

/// `\_S5`, the power button `\_SB.PWRB` (PNP0C0C) and the event device `\_SB.GED` (ACPI0013).
impl Aml for AcpiPower {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        // The SLP_TYP of each of two registers, of which a hardware-reduced machine has one, and two reserved values.
        Name::new("\\_S5_".into(), &Package::new(vec![&S5, &ZERO, &ZERO, &ZERO])).to_aml_bytes(sink);
        let button = Name::new("_HID".into(), &EISAName::new("PNP0C0C"));
        system_bus_device("PWRB", vec![&button], sink);
        self.event_device(sink);
    }
}

impl AcpiPower {
    fn event_device(&self, sink: &mut dyn AmlSink) {
        let port = u64::from(self.config.base).saturating_add(EVENTS);
        let interrupt = Interrupt::new(true, true, false, false, self.config.gsi);
        let field = Field::new(
            "EREG".into(),
            FieldAccessType::Byte,
            FieldLockRule::NoLock,
            FieldUpdateRule::WriteAsZeroes,
            vec![FieldEntry::Named(*b"EVNT", 8)],
        );
        let (events, register, button) = (Local(0), Path::new("EVNT"), Path::new("\\_SB_.PWRB"));
        // Read once: reading clears.
        let read = Store::new(&events, &register);
        let pressed = And::new(&ZERO, &events, &POWER_BUTTON);
        let notify = Notify::new(&button, &0x80u8);
        system_bus_device(
            "GED_",
            vec![
                &Name::new("_HID".into(), &"ACPI0013"),
                &Name::new("_UID".into(), &ZERO),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&interrupt])),
                &OpRegion::new("EREG".into(), OpRegionSpace::SystemIO, &port, &1u8),
                &field,
                &Method::new("_EVT".into(), 1, true, vec![&read, &If::new(&pressed, vec![&notify])]),
            ],
            sink,
        );
    }
}
