use super::HotPlug;
use acpi_tables::aml::{
    Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, MethodCall, OpRegion, OpRegionSpace,
    Scope,
};
use acpi_tables::{Aml, AmlSink};

/// What `slots.rs` describes, encoded by the build script.
pub(super) const SLOTS_AML: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/slots.aml"));

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
        let region = OpRegion::new("PHPR".into(), OpRegionSpace::SystemIO, &self.parts.base, &Self::LEN);
        let children: Vec<&dyn Aml> = vec![&region, &registers, &Encoded(SLOTS_AML)];
        Scope::new(bridge(self.parts.segment.number()).as_str().into(), children).to_aml_bytes(sink);
    }
}

fn field(name: &str) -> FieldEntry {
    let mut bytes = [b'_'; 4];
    bytes.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    FieldEntry::Named(bytes, 32)
}

/// Terms that are AML already.
struct Encoded(&'static [u8]);

impl Aml for Encoded {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(self.0);
    }
}
