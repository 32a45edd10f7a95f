use crate::{Attachment, Segment};
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else, Equal, If,
    Local, Method, Name, NotEqual, Or, Path, ResourceTemplate, Return, Scope, Store, Uuid, ZERO,
};
use acpi_tables::mcfg::MCFG;
use acpi_tables::{Aml, AmlSink};

/// What `_OSC` hands over to the operating system of what it asks for: the PCI Express capability structure, bit 4. The
/// other bits are about hardware that is not there (native hot plug, power management events, error reporting).
const GRANTED: u8 = 1 << 4;
/// `_OSC` of a PCI host bridge (PCI Firmware 3.3, 4.5.1).
const OSC: &str = "33DB4D5B-1FF7-401C-9657-7441C03DD766";
const OSC_REVISION: u8 = 1;
const OSC_UNKNOWN_UUID: u8 = 1 << 2;
const OSC_UNKNOWN_REVISION: u8 = 1 << 3;
const OSC_MASKED: u8 = 1 << 4;

/// The table that says where ECAM is (PCI Firmware 3.3, 4.1.2), for all segments of a machine.
pub fn mcfg(
    oem_id: [u8; 6],
    oem_table_id: [u8; 8],
    oem_revision: u32,
    segments: &[&Attachment],
) -> impl Aml + use<> {
    let mut table = MCFG::new(oem_id, oem_table_id, oem_revision);
    for attached in segments {
        table.add_ecam(attached.ecam().start, attached.segment().number(), 0, 0);
    }
    table
}

/// The host bridge `\_SB.PCI0` (or the digit of its segment), and a device `\_SB.PCR0` that reserves its ECAM: operating
/// systems believe in ECAM only if its addresses are also taken as a resource (PCI Firmware 3.3, 4.1.2).
impl Aml for Attachment {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let segment = self.segment();
        let (ecam, uid) = (self.ecam(), segment.number());
        let reserved = AddressSpace::new_memory(
            AddressSpaceCacheable::NotCacheable,
            true,
            ecam.start,
            ecam.end - 1,
            None,
        );
        system_bus_device(
            &format!("PCR{uid:X}"),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
                &Name::new("_UID".into(), &uid),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&reserved])),
            ],
            sink,
        );
        system_bus_device(
            &format!("PCI{uid:X}"),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
                &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
                &Name::new("_UID".into(), &uid),
                &Name::new("_SEG".into(), &uid),
                &Name::new("_BBN".into(), &ZERO),
                &Resources(segment),
                &OperatingSystemCapabilities,
            ],
            sink,
        );
    }
}

/// A device below `\_SB`, by its name of four characters.
fn system_bus_device(name: &str, children: Vec<&dyn Aml>, sink: &mut dyn AmlSink) {
    let device = Device::new(name.into(), children);
    Scope::new("\\_SB_".into(), vec![&device]).to_aml_bytes(sink);
}

/// `_CRS`: bus 0 alone, so that nobody looks for others, and the windows.
struct Resources<'a>(&'a Segment);

impl Aml for Resources<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let windows = self.0.windows();
        let bus = AddressSpace::new_bus_number(0_u16, 0);
        let memory = |range: &std::ops::Range<u64>| {
            let cache = AddressSpaceCacheable::NotCacheable;
            (!range.is_empty())
                .then(|| AddressSpace::new_memory(cache, true, range.start, range.end - 1, None))
        };
        let low = memory(&windows.memory_32);
        let high = memory(&windows.memory_64);
        let io = (!windows.io.is_empty())
            .then(|| AddressSpace::new_io(windows.io.start, windows.io.end - 1, None));
        let mut resources: Vec<&dyn Aml> = vec![&bus];
        resources.extend(io.iter().map(|r| r as &dyn Aml));
        resources.extend(low.iter().chain(&high).map(|r| r as &dyn Aml));
        Name::new("_CRS".into(), &ResourceTemplate::new(resources)).to_aml_bytes(sink);
    }
}

/// `_OSC`: what the operating system asks to control, it gets if it is there.
struct OperatingSystemCapabilities;

impl Aml for OperatingSystemCapabilities {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let (uuid, revision, buffer) = (Arg(0), Arg(1), Arg(3));
        let (status, control, granted) = (Path::new("CDW1"), Path::new("CDW3"), Local(0));
        let (status_at, control_at) = (0_u8, 8_u8);
        let set = |bit| Or::new(&status, &status, bit);
        let (unknown_uuid, unknown_revision, masked) =
            (set(&OSC_UNKNOWN_UUID), set(&OSC_UNKNOWN_REVISION), set(&OSC_MASKED));
        let ours = Uuid::new(OSC);
        let is_ours = Equal::new(&uuid, &ours);
        let other_revision = NotEqual::new(&revision, &OSC_REVISION);
        let more = NotEqual::new(&control, &granted);
        Method::new(
            "_OSC".into(),
            4,
            true,
            vec![
                &CreateDWordField::new(&status, &buffer, &status_at),
                &If::new(
                    &is_ours,
                    vec![
                        &CreateDWordField::new(&control, &buffer, &control_at),
                        &And::new(&granted, &control, &GRANTED),
                        &If::new(&other_revision, vec![&unknown_revision]),
                        &If::new(&more, vec![&masked]),
                        &Store::new(&control, &granted),
                    ],
                ),
                &Else::new(vec![&unknown_uuid]),
                &Return::new(&buffer),
            ],
        )
        .to_aml_bytes(sink);
    }
}
