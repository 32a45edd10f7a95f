use super::Ged;
use crate::aml::system_bus_device;
use acpi_tables::aml::{
    And, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If, Interrupt, Local, Method,
    Name, OpRegion, OpRegionSpace, Path, ResourceTemplate, Store, ZERO,
};
use acpi_tables::{Aml, AmlSink};

/// The event device `\_SB.GED` (ACPI0013), with its interrupt (edge-triggered, active high, exclusive). Its `_EVT` reads
/// which events occurred, once, because reading clears them, and runs what was added for each.
impl Aml for Ged {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let field = Field::new(
            "EREG".into(),
            FieldAccessType::DWord,
            FieldLockRule::NoLock,
            FieldUpdateRule::WriteAsZeroes,
            vec![FieldEntry::Named(*b"EVNT", 32)],
        );
        let (events, register) = (Local(0), Path::new("EVNT"));
        let read = Store::new(&events, &register);
        let bits: Vec<u32> = (0..self.handlers.len()).map(|n| 1 << n).collect();
        let occurred: Vec<_> = bits.iter().map(|bit| And::new(&ZERO, &events, bit)).collect();
        let handlers: Vec<_> = self.handlers.iter().map(|aml| Encoded(aml)).collect();
        let handle = occurred.iter().zip(&handlers).map(|(occurred, run)| If::new(occurred, vec![run]));
        let handle: Vec<_> = handle.collect();
        let mut terms: Vec<&dyn Aml> = vec![&read];
        terms.extend(handle.iter().map(|term| term as &dyn Aml));
        let interrupt = Interrupt::new(true, true, false, false, self.config.gsi);
        system_bus_device(
            "GED_",
            vec![
                &Name::new("_HID".into(), &"ACPI0013"),
                &Name::new("_UID".into(), &ZERO),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&interrupt])),
                &OpRegion::new("EREG".into(), OpRegionSpace::SystemIO, &self.config.base, &Self::LEN),
                &field,
                &Method::new("_EVT".into(), 1, true, terms),
            ],
            sink,
        );
    }
}

/// Terms that are AML already.
struct Encoded<'a>(&'a [u8]);

impl Aml for Encoded<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(self.0);
    }
}
