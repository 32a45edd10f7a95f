use super::HotPlug;
use crate::SLOTS;
use acpi_tables::aml::{
    And, Device, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If, Local, Method,
    MethodCall, Multiply, Name, Notify, OpRegion, OpRegionSpace, Path, Return, Scope, ShiftRight, Store,
    ZERO,
};
use acpi_tables::{Aml, AmlSink};

// Notifications (ACPI 6.5, 5.6.6).
const DEVICE_CHECK: u8 = 1;
const EJECT_REQUEST: u8 = 3;
/// Present, enabled, shown and functioning (ACPI 6.5, 6.3.7).
const THERE: u8 = 0xf;

/// What the guest runs when a [`HotPlug`] has something to tell: give it to the event device.
pub struct HotPlugHandler {
    method: String,
}

impl Aml for HotPlugHandler {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        MethodCall::new(self.method.as_str().into(), vec![]).to_aml_bytes(sink);
    }
}

impl HotPlug {
    /// The AML for the event that tells the guest, for a controller of segment `segment`: it is wanted before there is one.
    pub fn handler(segment: u16) -> HotPlugHandler {
        HotPlugHandler { method: format!("{}.PHPN", bridge(segment)) }
    }
}

fn bridge(segment: u16) -> String {
    format!("\\_SB_.PCI{segment:X}")
}

fn slot_name(slot: u8) -> String {
    format!("SL{slot:02X}")
}

/// Below the host bridge: the registers, `PHPN`, which passes on what they say, and a device for each slot with `_EJ0`.
impl Aml for HotPlug {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let registers = Field::new(
            "PHPR".into(),
            FieldAccessType::DWord,
            FieldLockRule::NoLock,
            FieldUpdateRule::WriteAsZeroes,
            ["CHNG", "EJRQ", "PRES", "EJCT"].map(field).to_vec(),
        );
        let slots: Vec<Slot> = (1..SLOTS).map(Slot).collect();
        let mut children: Vec<&dyn Aml> = Vec::new();
        let region = OpRegion::new("PHPR".into(), OpRegionSpace::SystemIO, &self.parts.base, &Self::LEN);
        children.extend([&region as &dyn Aml, &registers]);
        children.extend(slots.iter().map(|slot| slot as &dyn Aml));
        let name = bridge(self.parts.segment.number());
        children.push(&Dispatch);
        Scope::new(name.as_str().into(), children).to_aml_bytes(sink);
    }
}

fn field(name: &str) -> FieldEntry {
    let mut bytes = [b'_'; 4];
    bytes.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    FieldEntry::Named(bytes, 32)
}

/// The device of a slot.
struct Slot(u8);

impl Aml for Slot {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let (number, address) = (self.0, u32::from(self.0) << 16);
        let bit = 1_u32 << number;
        let (present, eject, one) = (Path::new("PRES"), Path::new("EJCT"), 1_u8);
        let status = (
            ShiftRight::new(&Local(0), &present, &number),
            And::new(&Local(0), &Local(0), &one),
            Multiply::new(&Local(0), &Local(0), &THERE),
        );
        let name = slot_name(number);
        Device::new(
            name.as_str().into(),
            vec![
                &Name::new("_ADR".into(), &address),
                &Name::new("_SUN".into(), &number),
                &Method::new(
                    "_STA".into(),
                    0,
                    true,
                    vec![&status.0, &status.1, &status.2, &Return::new(&Local(0))],
                ),
                &Method::new("_EJ0".into(), 1, true, vec![&Store::new(&eject, &bit)]),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// `PHPN`: reads what is to be told, acknowledges exactly that, and only then notifies, so that what happens meanwhile is
/// either seen by whoever was notified, or is told the next time.
struct Dispatch;

impl Aml for Dispatch {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let mut body = Vec::new();
        for (register, value) in [("CHNG", DEVICE_CHECK), ("EJRQ", EJECT_REQUEST)] {
            let (register, told) = (Path::new(register), Local(0));
            Store::new(&told, &register).to_aml_bytes(&mut body);
            Store::new(&register, &told).to_aml_bytes(&mut body);
            for slot in 1..SLOTS {
                let (bit, name) = (1_u32 << slot, Path::new(&slot_name(slot)));
                let is_told = And::new(&ZERO, &told, &bit);
                If::new(&is_told, vec![&Notify::new(&name, &value)]).to_aml_bytes(&mut body);
            }
        }
        Method::new("PHPN".into(), 0, true, vec![&Encoded(&body)]).to_aml_bytes(sink);
    }
}

/// Terms that are AML already.
struct Encoded<'a>(&'a [u8]);

impl Aml for Encoded<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(self.0);
    }
}
