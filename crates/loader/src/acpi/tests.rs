use super::*;
use crate::bytes::{u16_at, u32_at, u64_at};
use acpi_tables::{Aml, aml};
use std::process::Command;

const CPUS: &[u32] = &[0, 1];

fn full<'a>(aml: &'a [AmlPart<'a>]) -> AcpiConfig<'a> {
    AcpiConfig {
        apic_ids: CPUS,
        overrides: &[InterruptOverride {
            isa_irq: 9,
            gsi: 9,
            polarity: Polarity::High,
            trigger: Trigger::Level,
        }],
        dual_8259: true,
        reset: Some(ResetRegister { register: Register::Port(0xcf9), value: 6 }),
        sleep: Some(SleepRegisters { control: Register::Port(0x600), status: Register::Memory(0xd000_0001) }),
        cmos_rtc: true,
        i8042: true,
        legacy_devices: true,
        aml,
        tables: &[],
    }
}

/// `\_S5_` and a serial port, as components give them.
fn with_devices<R>(then: impl FnOnce(&[AmlPart<'_>]) -> R) -> R {
    let s5 = aml::Name::new("_S5_".into(), &aml::Package::new(vec![&5_u8]));
    let id = aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0501"));
    let crs = aml::Name::new(
        "_CRS".into(),
        &aml::ResourceTemplate::new(vec![
            &aml::Interrupt::new(true, true, false, false, 4),
            &aml::IO::new(0x3f8, 0x3f8, 1, 8),
        ]),
    );
    let uid = aml::Name::new("_UID".into(), &aml::ZERO);
    let serial = aml::Device::new("COM1".into(), vec![&id, &uid, &crs]);
    then(&[AmlPart::SystemBus(&serial), AmlPart::Root(&s5)])
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn find<'a>(tables: &'a AcpiTables, signature: &[u8]) -> &'a [u8] {
    tables.tables().find(|(_, table)| table.starts_with(signature)).unwrap().1
}

#[test]
fn every_table_is_found_from_the_rsdp_with_a_right_checksum() {
    let tables = with_devices(|aml| AcpiTables::build(&full(aml)).unwrap());
    let image = tables.image();
    let at = |address: u64| &image[(address - crate::map::ACPI.start) as usize..];
    let table = |address: u64| {
        assert!(address.is_multiple_of(16));
        let len = u32_at(at(address), 4).unwrap() as usize;
        let table = &at(address)[..len];
        assert_eq!(sum(table), 0, "checksum at {address:#x}");
        assert_eq!((&table[10..16], &table[16..24]), (b"DRYSTN".as_slice(), b"DRYSTONE".as_slice()));
        table
    };
    assert_eq!(tables.rsdp(), 0xe_0000);
    let rsdp = &at(tables.rsdp())[..36];
    assert_eq!((&rsdp[..8], rsdp[15], u32_at(rsdp, 20)), (b"RSD PTR ".as_slice(), 2, Some(36)));
    assert_eq!((sum(&rsdp[..20]), sum(rsdp)), (0, 0));
    let xsdt = table(u64_at(rsdp, 24).unwrap());
    assert_eq!(&xsdt[..4], b"XSDT");
    let listed: Vec<_> = xsdt[36..].chunks(8).map(|a| table(u64_at(a, 0).unwrap())).collect();
    assert_eq!(listed.iter().map(|t| &t[..4]).collect::<Vec<_>>(), [b"FACP", b"APIC"]);
    let dsdt = table(u64_at(listed[0], 140).unwrap());
    assert_eq!((&dsdt[..4], dsdt[8]), (b"DSDT".as_slice(), 2));
    assert_eq!(tables.tables().count(), 4);
}

#[test]
fn the_fadt_describes_a_hardware_reduced_machine_with_these_registers() {
    let tables = AcpiTables::build(&full(&[])).unwrap();
    let fadt = find(&tables, b"FACP");
    assert_eq!((fadt.len(), fadt[8], fadt[131]), (276, 6, 5), "revision 6.5");
    let flags = u32_at(fadt, 112).unwrap();
    // HW_REDUCED_ACPI, RESET_REG_SUP, FIX_RTC, SLP_BUTTON, PWR_BUTTON, WBINVD
    assert_eq!(flags, 1 << 20 | 1 << 10 | 1 << 6 | 1 << 5 | 1 << 4 | 1);
    assert_eq!(u16_at(fadt, 109), Some(0b111), "legacy devices, 8042, no VGA, a CMOS clock");
    assert_eq!(fadt[116..129], [1, 8, 0, 1, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0, 6], "reset register and value");
    assert_eq!(fadt[244..256], [1, 8, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0], "sleep control");
    assert_eq!(fadt[256..268], [0, 8, 0, 1, 1, 0, 0, 0xd0, 0, 0, 0, 0], "sleep status");
    assert!(fadt[46..109].iter().all(|b| *b == 0), "fixed hardware");

    let tables = AcpiTables::build(&AcpiConfig { apic_ids: CPUS, ..Default::default() }).unwrap();
    let fadt = find(&tables, b"FACP");
    assert_eq!(u32_at(fadt, 112).unwrap() & 1 << 10, 0, "no reset register");
    assert_eq!(u16_at(fadt, 109), Some(1 << 2 | 1 << 5), "no VGA, no CMOS clock");
    assert!(fadt[116..129].iter().chain(&fadt[244..]).all(|b| *b == 0));
}

#[test]
fn the_madt_lists_cpus_the_io_apic_and_overrides() {
    let tables = AcpiTables::build(&full(&[])).unwrap();
    let madt = find(&tables, b"APIC");
    assert_eq!((u32_at(madt, 36), u32_at(madt, 40)), (Some(0xfee0_0000), Some(1)));
    let expected = [
        [0, 8, 0, 0, 1, 0, 0, 0].as_slice(),
        &[0, 8, 1, 1, 1, 0, 0, 0],
        &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
        &[2, 10, 0, 9, 9, 0, 0, 0, 0b1101, 0],
        &[4, 6, 0xff, 0, 0, 1],
    ];
    assert_eq!(madt[44..], expected.concat());
}

#[test]
fn a_cpu_whose_apic_id_has_more_than_8_bits_is_listed_as_an_x2apic() {
    let config = AcpiConfig { apic_ids: &[254, 255, 0x1_0000], ..Default::default() };
    let tables = AcpiTables::build(&config).unwrap();
    let madt = find(&tables, b"APIC");
    let cpus = [
        [0, 8, 0, 254, 1, 0, 0, 0].as_slice(),
        &[9, 16, 0, 0, 255, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0],
        &[9, 16, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0],
    ];
    let cpus = cpus.concat();
    assert_eq!(madt[44..44 + cpus.len()], cpus);
    assert!(madt.ends_with(&[0x0a, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]));
    assert_eq!(u32_at(madt, 40), Some(0), "no 8259s");
}

#[test]
fn aml_goes_where_it_asks() {
    let (root, device) = (aml::Name::new("ROOT".into(), &1_u8), aml::Device::new("DEV0".into(), vec![]));
    let parts = [AmlPart::SystemBus(&device), AmlPart::Root(&root), AmlPart::SystemBus(&device)];
    let tables = AcpiTables::build(&AcpiConfig { aml: &parts, ..full(&[]) }).unwrap();
    let (mut one, mut name) = (Vec::new(), Vec::new());
    device.to_aml_bytes(&mut one);
    root.to_aml_bytes(&mut name);
    let scope = [0x10, (1 + 5 + 2 * one.len()) as u8];
    let expected = [&name, scope.as_slice(), b"\\_SB_", &one, &one].concat();
    assert_eq!(find(&tables, b"DSDT")[36..], expected);
}

#[test]
fn what_cannot_be_described_is_refused() {
    let build = |config: &AcpiConfig<'_>| AcpiTables::build(config).unwrap_err();
    let cpus = |apic_ids: &[u32]| build(&AcpiConfig { apic_ids, ..Default::default() });
    assert_eq!(cpus(&[]), AcpiError::NoCpu);
    assert_eq!(cpus(&[0, 1, 0]), AcpiError::ApicId(0));
    assert_eq!(cpus(&[0, u32::MAX]), AcpiError::ApicId(u32::MAX));
    let many: Vec<u32> = (0..9000).collect();
    assert!(matches!(cpus(&many), AcpiError::TooLarge { .. }));
    let route =
        |isa_irq, gsi| InterruptOverride { isa_irq, gsi, polarity: Polarity::Low, trigger: Trigger::Edge };
    for routes in [vec![route(16, 2)], vec![route(0, 24)], vec![route(0, 2), route(0, 3)]] {
        let error = build(&AcpiConfig { overrides: &routes, apic_ids: CPUS, ..Default::default() });
        assert!(matches!(error, AcpiError::Override { .. }), "{error}");
    }
}

struct Raw(Vec<u8>);
impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

#[test]
fn further_tables_are_listed_and_checked() {
    let good = Raw(table(*b"MCFG", 1, &[0; 24]));
    let config = AcpiConfig { apic_ids: CPUS, tables: &[&good], ..Default::default() };
    let tables = AcpiTables::build(&config).unwrap();
    assert_eq!(find(&tables, b"MCFG"), good.0);
    assert_eq!(find(&tables, b"XSDT").len(), 36 + 3 * 8);

    let mut checksum = table(*b"MCFG", 1, &[0; 24]);
    checksum[40] ^= 1;
    let length = [table(*b"MCFG", 1, &[]), vec![0]].concat();
    for (bytes, cause) in [
        (vec![0; 35], "it is shorter than a header"),
        (length, "its length field is wrong"),
        (checksum, "its checksum is wrong"),
    ] {
        let bad = Raw(bytes);
        let config = AcpiConfig { tables: &[&good, &bad], ..config };
        assert_eq!(AcpiTables::build(&config), Err(AcpiError::Table { index: 2, cause }));
    }
}

#[test]
fn tables_may_fill_their_place_to_the_last_byte_and_no_further() {
    let bare = AcpiTables::build(&AcpiConfig { apic_ids: CPUS, ..Default::default() }).unwrap();
    let (xsdt, _) = bare.tables().last().unwrap();
    // It goes before the XSDT, which then has 60 bytes.
    let room = 0x1_f000 - (xsdt - crate::map::ACPI.start) as usize - 64;
    for (len, fits) in [(room, true), (room + 16, false), (1 << 20, false)] {
        let large = Raw(table(*b"OEM1", 1, &vec![0; len - 36]));
        let built =
            AcpiTables::build(&AcpiConfig { apic_ids: CPUS, tables: &[&large], ..Default::default() });
        match built {
            Ok(tables) => assert!(fits && tables.image().len() <= 0x1_f000),
            Err(error) => assert!(!fits && matches!(error, AcpiError::TooLarge { .. }), "{error}"),
        }
    }
}

/// ACPICA's compiler must take our tables apart without a complaint and, put together again, give the same bytes.
#[test]
fn iasl_agrees() {
    if Command::new("iasl").arg("-v").output().is_err() {
        eprintln!("NOT TESTED: iasl is missing (Debian package acpica-tools)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let build = |apic_ids: &[u32]| {
        with_devices(|aml| AcpiTables::build(&AcpiConfig { apic_ids, ..full(aml) }).unwrap())
    };
    let (tables, x2apic) = (build(CPUS), build(&[0, 300]));
    let run = |args: &[&str]| {
        let out = Command::new("iasl").args(args).current_dir(dir.path()).output().unwrap();
        let text = [out.stdout, out.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        for bad in ["Error  ", "Warning  ", "Invalid", "Incorrect", "unknown", "Unknown"] {
            assert!(out.status.success() && !text.contains(bad), "iasl {args:?}: {text}");
        }
    };
    for (index, (_, table)) in tables.tables().chain(x2apic.tables()).enumerate() {
        let signature = String::from_utf8_lossy(&table[..4]);
        let name = format!("{signature}{index}");
        std::fs::write(dir.path().join(&name).with_extension("dat"), table).unwrap();
        run(&["-d", &format!("{name}.dat")]);
        run(&["-oa", "-p", &name, &format!("{name}.dsl")]);
        let again = std::fs::read(dir.path().join(format!("{name}.aml"))).unwrap();
        // The header's compiler fields, and with them the checksum, are iasl's own.
        assert_eq!(again[..9], table[..9], "{name}");
        assert_eq!(again[10..28], table[10..28], "{name}");
        assert_eq!(again[36..], table[36..], "{name}");
    }
}
