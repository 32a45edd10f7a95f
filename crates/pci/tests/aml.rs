//! What guests read in ACPI about a segment.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use acpi_tables::Aml;
use drystone_bus::Bus;
use drystone_bus::{Interrupt, SystemClock};
use drystone_pci::{Attachment, HostBridge, HotPlug, HotPlugParts, Segment, Windows, mcfg};
use drystone_testkit::aml::disassemble;
use std::sync::Arc;

fn attached(number: u16, windows: Windows, ecam: u64) -> Attachment {
    let segment = Segment::new(number, windows, Arc::new(HostBridge::new())).unwrap();
    Attachment::new(Arc::new(segment), Arc::new(Bus::default()), ecam).unwrap()
}

#[test]
fn acpica_reads_what_is_meant() {
    let windows = Windows {
        memory_32: 0xc000_0000..0xe000_0000,
        memory_64: 0x1_4000_0000..0x80_0000_0000,
        io: 0x1000..0x2000,
    };
    let first = attached(0, windows, 0xe000_0000);
    let second = attached(15, Windows::default(), 0xe0f0_0000);
    let Some(text) = disassemble(&[&first, &second]) else { return };
    for part in [
        r#"Device(PCR0){Name(_HID,EisaId("PNP0C02"))Name(_UID,Zero)Name(_CRS,ResourceTemplate(){QWordMemory("#,
        r#"0x00000000E0000000,0x00000000E00FFFFF,0x0000000000000000,0x0000000000100000,,,,AddressRangeMemory,TypeStatic)})}"#,
        r#"Device(PCI0){Name(_HID,EisaId("PNP0A08"))Name(_CID,EisaId("PNP0A03"))Name(_UID,Zero)Name(_SEG,Zero)Name(_BBN,Zero)"#,
        r#"WordBusNumber(ResourceProducer,MinFixed,MaxFixed,PosDecode,0x0000,0x0000,0x0000,0x0000,0x0001,,,)"#,
        r#"WordIO(ResourceProducer,MinFixed,MaxFixed,PosDecode,EntireRange,0x0000,0x1000,0x1FFF,0x0000,0x1000,,,,TypeStatic,DenseTranslation)"#,
        r#"0x00000000C0000000,0x00000000DFFFFFFF,0x0000000000000000,0x0000000020000000,,,"#,
        r#"0x0000000140000000,0x0000007FFFFFFFFF,0x0000000000000000,0x0000007EC0000000,,,"#,
        r#"Method(_OSC,4,Serialized){CreateDWordField(Arg3,Zero,CDW1)If((Arg0==ToUUID("33db4d5b-1ff7-401c-9657-7441c03dd766")))"#,
        r#"{CreateDWordField(Arg3,0x08,CDW3)Local0=(CDW3&0x10)If((Arg1!=One)){CDW1|=0x08}If((CDW3!=Local0)){CDW1|=0x10}CDW3=Local0}"#,
        r#"Else{CDW1|=0x04}Return(Arg3)"#,
        r#"Device(PCIF){Name(_HID,EisaId("PNP0A08"))Name(_CID,EisaId("PNP0A03"))Name(_UID,0x0F)Name(_SEG,0x0F)"#,
        r#"Name(_CRS,ResourceTemplate(){WordBusNumber(ResourceProducer,MinFixed,MaxFixed,PosDecode,0x0000,0x0000,0x0000,0x0000,0x0001,,,)})"#,
    ] {
        assert!(text.contains(part), "not found:\n{part}\nin:\n{text}");
    }
    assert!(!text.contains("_PRT"), "there are no interrupt lines");
}

#[test]
fn the_mcfg_names_every_segment() {
    let (first, second) =
        (attached(0, Windows::default(), 0xe000_0000), attached(3, Windows::default(), 0x4_0000_0000));
    let mut table = Vec::new();
    mcfg(*b"OEMOEM", *b"OEMTABLE", 1, &[&first, &second]).to_aml_bytes(&mut table);
    assert_eq!((&table[..4], table.len()), (&b"MCFG"[..], 44 + 2 * 16));
    assert_eq!(table.iter().fold(0_u8, |sum, b| sum.wrapping_add(*b)), 0);
    assert_eq!(table[44..60], [0, 0, 0, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(table[60..], [0, 0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
}

struct Unwired;
impl Interrupt for Unwired {
    fn trigger(&self) {}
}

/// A method of an event device, which calls the controller's.
struct Caller;
impl Aml for Caller {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let handler = HotPlug::handler(0);
        acpi_tables::aml::Method::new("\\EVNT".into(), 0, true, vec![&handler]).to_aml_bytes(sink);
    }
}

#[test]
fn acpica_reads_the_slots_as_they_are_meant() {
    let attached = attached(0, Windows::default(), 0xe000_0000);
    let hot_plug = HotPlug::new(HotPlugParts {
        segment: attached.segment().clone(),
        base: 0x620,
        guest: Arc::new(Unwired),
        host: Arc::new(Unwired),
        clock: Arc::new(SystemClock::new()),
    });
    let Some(text) = disassemble(&[&attached, &hot_plug, &Caller]) else { return };
    for part in [
        r#"Scope(\_SB.PCI0){OperationRegion(PHPR,SystemIO,0x0620,0x10)Field(PHPR,DWordAcc,NoLock,WriteAsZeros){CHNG,32,EJRQ,32,PRES,32,EJCT,32}"#,
        r#"Device(SL01){Name(_ADR,0x00010000)Name(_SUN,One)"#,
        r#"Method(_EJ0,1,Serialized){EJCT=0x02}}"#,
        r#"Device(SL1F){Name(_ADR,0x001F0000)Name(_SUN,0x1F)"#,
        r#"{EJCT=0x80000000}}Method(PHPN,0,Serialized){Local0=CHNGCHNG=Local0If((Local0&0x02)){Notify(SL01,One)}"#,
        r#"If((Local0&0x80000000)){Notify(SL1F,One)}Local0=EJRQEJRQ=Local0If((Local0&0x02)){Notify(SL01,0x03)}"#,
        r#"Method(\EVNT,0,Serialized){\_SB.PCI0.PHPN()}"#,
    ] {
        assert!(text.contains(part), "not found:\n{part}\nin:\n{text}");
    }
    assert_eq!(text.matches("_EJ0").count(), 31);
}
