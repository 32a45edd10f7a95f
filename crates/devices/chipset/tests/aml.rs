//! The AML of all devices, as ACPICA's disassembler reads it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use acpi_tables::aml::{Device, Method, MethodCall, Name, Scope};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};
use drystone_bus::{Interrupt, SystemClock};
use drystone_chipset::{
    AcpiPower, AcpiPowerConfig, Ged, GedConfig, I8042, PowerButton, PvPanic, Rtc, RtcConfig, Serial,
    SerialConfig, VmGenId,
};
use drystone_memory::{GuestRam, Layout, RamConfig};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

struct Unwired;
impl Interrupt for Unwired {
    fn trigger(&self) {}
}

/// `\_SB.SLOT`, with a method `SCAN`.
struct Scanner;
impl Aml for Scanner {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let id = Name::new("_HID".into(), &"DRYS0001");
        let scan = Method::new("SCAN".into(), 0, true, vec![]);
        let slot = Device::new("SLOT".into(), vec![&id, &scan]);
        Scope::new("\\_SB_".into(), vec![&slot]).to_aml_bytes(sink);
    }
}

fn table(parts: &[&dyn Aml]) -> Vec<u8> {
    let mut aml = Vec::new();
    for part in parts {
        part.to_aml_bytes(&mut aml);
    }
    let mut table = Sdt::new(*b"DSDT", 36, 2, *b"DRYSTN", *b"DRYSTONE", 1);
    table.append_slice(&aml);
    table.as_slice().to_vec()
}

/// Runs iasl. `None`, said aloud, if it is not installed.
fn iasl(folder: &Path, args: &[&str]) -> Option<String> {
    let output = match Command::new("iasl").args(args).current_dir(folder).output() {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            // Past libtest, which keeps what a passing test prints to itself.
            let said =
                b"acpica_reads_what_is_meant: NOT TESTED, iasl is not installed (Debian: acpica-tools)\n";
            std::io::stderr().write_all(said).unwrap();
            return None;
        }
        output => output.unwrap(),
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "iasl {args:?} said:\n{said}");
    Some(said)
}

/// Without white space, and without comments, which are iasl's own.
fn bare(asl: &str) -> String {
    let mut text: String = asl.lines().map(|l| l.split("//").next().unwrap()).collect();
    while let Some((before, rest)) = text.split_once("/*") {
        text = format!("{before}{}", rest.split_once("*/").unwrap().1);
    }
    text.replace([' ', '\t'], "")
}

#[test]
fn acpica_reads_what_is_meant() {
    let serial = |config| Serial::build(config, Arc::new(Unwired)).unwrap().serial;
    let com1 = serial(SerialConfig::default());
    let com2 = serial(SerialConfig { base: 0x2f8, irq: 3, index: 1, ..Default::default() });
    let rtc = Rtc::new(&RtcConfig::default(), Arc::new(SystemClock::new()));
    let keyboard = I8042::new(Arc::new(Unwired));
    let power = AcpiPower::new(AcpiPowerConfig { base: 0x600 });
    let mut ged = Ged::new(GedConfig { base: 0x604, gsi: 9 }, Arc::new(Unwired));
    let button = PowerButton::new(&mut ged).unwrap();
    let ram = GuestRam::new(&Layout::new(1 << 20, 46).unwrap(), &RamConfig::default()).unwrap();
    let generation = VmGenId::new(0x1_000d_f020, ram.view(), &mut ged, Box::new(|| Ok([0; 16]))).unwrap();
    // As a controller for hot plug would: the device is its own, and the event runs a method of it.
    let _event = ged.add(&MethodCall::new("\\_SB_.SLOT.SCAN".into(), vec![])).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("dsdt.aml"),
        table(&[
            &com1,
            &com2,
            &rtc,
            &keyboard,
            &power,
            &button,
            &Scanner,
            &ged,
            &PvPanic::new(),
            &generation,
        ]),
    )
    .unwrap();

    if iasl(folder.path(), &["-d", "dsdt.aml"]).is_none() {
        return;
    }
    let asl = std::fs::read_to_string(folder.path().join("dsdt.dsl")).unwrap();
    let text = bare(&asl);
    let expected = [
        r#"Device(COM1){Name(_HID,EisaId("PNP0501"))Name(_UID,Zero)Name(_CRS,ResourceTemplate(){IO(Decode16,0x03F8,0x03F8,0x01,0x08,)Interrupt(ResourceConsumer,Edge,ActiveHigh,Exclusive,,,){0x00000004,}})}"#,
        r#"Device(COM2){Name(_HID,EisaId("PNP0501"))Name(_UID,One)"#,
        r#"IO(Decode16,0x02F8,0x02F8,0x01,0x08,)Interrupt(ResourceConsumer,Edge,ActiveHigh,Exclusive,,,){0x00000003,}"#,
        r#"Device(RTC){Name(_HID,EisaId("PNP0B00"))Name(_CRS,ResourceTemplate(){IO(Decode16,0x0070,0x0070,0x01,0x02,)})}"#,
        r#"Device(KBD){Name(_HID,EisaId("PNP0303"))Name(_CRS,ResourceTemplate(){IO(Decode16,0x0060,0x0060,0x01,0x01,)IO(Decode16,0x0064,0x0064,0x01,0x01,)Interrupt(ResourceConsumer,Edge,ActiveHigh,Exclusive,,,){0x00000001,}})}"#,
        r#"Device(PEVT){Name(_HID,"QEMU0001")Name(_CRS,ResourceTemplate(){IO(Decode16,0x0505,0x0505,0x01,0x01,)})}"#,
        r#"Device(VGEN){Name(_HID,"DRYS0001")Name(_CID,"VM_Gen_Counter")Name(_DDN,"VM_Gen_Counter")Name(ADDR,Package(0x02){0x000DF020,One})}"#,
        r#"Name(\_S5,Package(0x04){0x05,Zero,Zero,Zero})"#,
        r#"Device(PWRB){Name(_HID,EisaId("PNP0C0C"))}"#,
        r#"Device(GED){Name(_HID,"ACPI0013")Name(_UID,Zero)Name(_CRS,ResourceTemplate(){Interrupt(ResourceConsumer,Edge,ActiveHigh,Exclusive,,,){0x00000009,}})OperationRegion(EREG,SystemIO,0x0604,0x04)Field(EREG,DWordAcc,NoLock,WriteAsZeros){EVNT,32}"#,
        r#"Method(_EVT,1,Serialized){Local0=EVNTIf((Local0&One)){Notify(\_SB.PWRB,0x80)}If((Local0&0x02)){Notify(\_SB.VGEN,0x80)}If((Local0&0x04)){\_SB.SLOT.SCAN()}}"#,
    ];
    for part in expected {
        assert!(text.contains(part), "not found:\n{part}\nin:\n{text}\nfrom:\n{asl}");
    }
    let said = iasl(folder.path(), &["-f", "dsdt.dsl"]).unwrap_or_default();
    assert!(said.contains("0 Errors, 0 Warnings"), "{said}");
}
