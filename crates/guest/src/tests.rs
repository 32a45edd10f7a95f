use crate::acpi::{self, Madt, Place, Power, Table};
use crate::line::{Line, Typed};
use crate::memory::{self, Bytes, Range};
use crate::physical::Physical;
use crate::rtc::{self, Time};
use crate::start_info::StartInfo;
use crate::{IMAGE, cpu, pci};
use std::collections::BTreeMap;

/// Memory of a few pieces; everything else reads as ones.
#[derive(Default)]
struct Fake(BTreeMap<u64, Vec<u8>>);

impl Fake {
    fn with(mut self, at: u64, bytes: impl Into<Vec<u8>>) -> Self {
        self.0.insert(at, bytes.into());
        self
    }
    fn table(self, at: u64, signature: &[u8; 4], body: &[u8]) -> Self {
        self.with(at, table(signature, body))
    }
}

impl Physical for Fake {
    fn read(&self, at: u64, out: &mut [u8]) {
        for (address, byte) in (at..).zip(out) {
            let piece = self.0.range(..=address).next_back();
            *byte = piece.and_then(|(start, b)| b.get((address - start) as usize)).copied().unwrap_or(0xff);
        }
    }
    fn register(&self, at: u64) -> u32 {
        assert!(at.is_multiple_of(4));
        self.u32(at)
    }
}

fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 36];
    bytes[..4].copy_from_slice(signature);
    bytes[4..8].copy_from_slice(&(36 + body.len() as u32).to_le_bytes());
    bytes.extend(body);
    bytes[9] = 0_u8.wrapping_sub(bytes.iter().fold(0, |sum, b| sum.wrapping_add(*b)));
    bytes
}

fn rsdp(xsdt: u64) -> Vec<u8> {
    let mut bytes = b"RSD PTR \0DRYSTN\x02".to_vec();
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(36_u32.to_le_bytes());
    bytes.extend(xsdt.to_le_bytes());
    bytes.extend([0; 4]);
    bytes
}

/// The body of a hardware-reduced FADT, behind its header.
fn fadt(dsdt: u64, sleep: Option<u16>, reset: Option<(u16, u8)>) -> Vec<u8> {
    let mut body = vec![0; 276 - 36];
    let port = |port: u16| [&[1, 8, 0, 1][..], &u64::from(port).to_le_bytes()].concat();
    let flags = 1 << 20 | u32::from(reset.is_some()) << 10;
    body[112 - 36..116 - 36].copy_from_slice(&u32::to_le_bytes(flags));
    if let Some((at, value)) = reset {
        body[116 - 36..128 - 36].copy_from_slice(&port(at));
        body[128 - 36] = value;
    }
    body[140 - 36..148 - 36].copy_from_slice(&dsdt.to_le_bytes());
    if let Some(at) = sleep {
        body[244 - 36..256 - 36].copy_from_slice(&port(at));
    }
    body
}

fn machine(dsdt: &[u8], madt: &[u8]) -> Fake {
    let xsdt: Vec<u8> = [0x2000_u64, 0x3000].iter().flat_map(|a| a.to_le_bytes()).collect();
    Fake::default()
        .with(0xe_0000, rsdp(0x1000))
        .table(0x1000, b"XSDT", &xsdt)
        .table(0x2000, b"FACP", &fadt(0x4000, Some(0x600), Some((0x602, 1))))
        .table(0x3000, b"APIC", madt)
        .table(0x4000, b"DSDT", dsdt)
}

const S5: &[u8] = b"\x08_S5_\x12\x08\x04\x0a\x05\0\0\0";

fn names(memory: &Fake) -> Vec<String> {
    acpi::tables(memory, 0xe_0000).map(|t| t.name().to_owned()).collect()
}

fn find(memory: &Fake, signature: &[u8; 4]) -> Table {
    acpi::tables(memory, 0xe_0000).find(|t| t.signature == *signature).unwrap()
}

#[test]
fn tables_are_found_from_the_root_pointer_on_and_checked() {
    let memory = machine(S5, &[0; 8]);
    assert_eq!(names(&memory), ["XSDT", "FACP", "DSDT", "APIC"]);
    assert!(acpi::tables(&memory, 0xe_0000).all(|t| t.is_sound(&memory)));
    let mut broken = table(b"DSDT", S5);
    broken[40] ^= 1;
    let memory = memory.with(0x4000, broken);
    assert!(!find(&memory, b"DSDT").is_sound(&memory));
    for at in [0, 0x1000] {
        assert_eq!(acpi::tables(&memory, at).count(), 0, "no root pointer at {at:#x}");
    }
}

#[test]
fn tables_that_lie_about_their_length_end_the_search_not_the_guest() {
    for len in [0_u32, 35, u32::MAX] {
        let mut xsdt = table(b"XSDT", &[0; 8]);
        xsdt[4..8].copy_from_slice(&len.to_le_bytes());
        assert_eq!(names(&machine(S5, &[0; 8]).with(0x1000, xsdt)), [""; 0], "{len}");
    }
}

#[test]
fn the_registers_for_power_off_and_reset_are_those_that_acpi_names() {
    let read = |dsdt: &[u8]| {
        let memory = machine(dsdt, &[0; 8]);
        Power::read(&memory, &find(&memory, b"FACP"))
    };
    let reset = Some((Place::Port(0x602), 1));
    // SLP_TYP 5, and "enter it".
    assert_eq!(read(S5), Power { off: Some((Place::Port(0x600), 0x34)), reset });
    let padded = [&[0x5b; 100][..], S5, &[0; 100]].concat();
    assert_eq!(read(&padded).off, Some((Place::Port(0x600), 0x34)));
    assert_eq!(read(b"\x08\\_S5_\x12\x08\x04\x01\0\0\0").off, Some((Place::Port(0x600), 0x24)), "OneOp");
    assert_eq!(read(b"\x08_S5_\x12\x08\x04\0\0\0\0").off, Some((Place::Port(0x600), 0x20)), "ZeroOp");
    for other in [&b"\x08_S4_\x12\x08\x04\x0a\x05"[..], b"_S5_\x12\x08\x04\x0a\x05", b"\x08_S5_\x12\x08", b""]
    {
        assert_eq!(read(other), Power { off: None, reset }, "{other:?}");
    }
    let none = machine(S5, &[0; 8]).table(0x2000, b"FACP", &fadt(0x4000, None, None));
    assert_eq!(Power::read(&none, &find(&none, b"FACP")), Power::default());
}

#[test]
fn the_madt_tells_processors_and_where_the_serial_interrupt_goes() {
    let mut body = [0xfee0_0000_u32.to_le_bytes(), 1_u32.to_le_bytes()].concat();
    body.extend([0, 8, 0, 0, 1, 0, 0, 0]); // enabled
    body.extend([0, 8, 1, 1, 2, 0, 0, 0]); // may be enabled
    body.extend([0, 8, 2, 2, 0, 0, 0, 0]); // neither
    body.extend([9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0]);
    body.extend([1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    body.extend([2, 10, 0, 4, 7, 0, 0, 0, 0, 0]);
    let memory = machine(S5, &body);
    let madt = Madt::read(&memory, &find(&memory, b"APIC"));
    let expected = Madt {
        processors: 3,
        local_apic: 0xfee0_0000,
        io_apic: 0xfec0_0000,
        io_apic_base: 0,
        pics: true,
        serial_gsi: 7,
    };
    assert_eq!(madt, expected);
    // An entry without length would go on for ever.
    let memory = machine(S5, &[body, vec![0, 0, 0, 8]].concat());
    assert_eq!(Madt::read(&memory, &find(&memory, b"APIC")), expected);
}

#[test]
fn start_info_tells_memory_with_its_holes() {
    let mut info = [0x336e_c578_u32, 1, 0, 1].iter().flat_map(|f| f.to_le_bytes()).collect::<Vec<_>>();
    info.extend([0x7100_u64, 0x2_0000, 0xe_0000, 0x7200].iter().flat_map(|f| f.to_le_bytes()));
    info.extend([3_u32, 0].iter().flat_map(|f| f.to_le_bytes()));
    let map = [[0, 0x9_fc00, 1], [0x9_fc00, 0x6_0400, 2], [1 << 32, 1 << 30, 1]];
    let map: Vec<u8> = map.iter().flatten().flat_map(|f: &u64| f.to_le_bytes()).collect();
    let module: Vec<u8> = [0x50_0000_u64, 1234, 0, 0].iter().flat_map(|f| f.to_le_bytes()).collect();
    let memory = Fake::default().with(0x7000, info).with(0x7100, module).with(0x7200, map);
    let info = StartInfo::read(&memory, 0x7000).unwrap();
    assert_eq!(
        (info.cmdline, info.rsdp, info.initrd(&memory)),
        (0x2_0000, 0xe_0000, Some((0x50_0000, 1234)))
    );
    let mut text = String::new();
    memory::print(&mut text, info.ranges(&memory));
    let lines: Vec<Vec<_>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["0x000000000000..0x00000009fc00", "639", "KiB", "RAM"]);
    assert_eq!(lines[1], ["0x00000009fc00..0x000000100000", "385", "KiB", "reserved"]);
    assert_eq!(lines[2], ["0x000000100000..0x000100000000", "4095", "MiB", "hole"]);
    assert_eq!(lines[3], ["0x000100000000..0x000140000000", "1", "GiB", "RAM"]);
    assert_eq!(memory::total(info.ranges(&memory)), (1 << 30) + (1 << 20));
    assert_eq!(memory::usable(info.ranges(&memory)), (1 << 30) + 0x9_fc00);
    assert_eq!(StartInfo::read(&memory, 0x7100), None);
}

#[test]
fn sizes_are_said_in_the_largest_whole_unit() {
    let said = [0, 1, 1023, 1024, 3 << 20, (3 << 20) + 4096, 64 << 30].map(|n| Bytes(n).to_string());
    assert_eq!(said, ["0 bytes", "1 bytes", "1023 bytes", "1 KiB", "3 MiB", "3076 KiB", "64 GiB"]);
    assert_eq!(memory::total([Range { start: 0, len: u64::MAX, kind: 1 }; 2].into_iter()), u64::MAX);
}

#[test]
fn the_clock_is_read_in_each_of_its_formats() {
    let clock = |mode: u8, registers: [u8; 7]| {
        let numbers = [0, 2, 4, 7, 8, 9, 0x32];
        rtc::read(move |register| match register {
            0x0a => 0x26,
            0x0b => mode,
            other => registers[numbers.iter().position(|n| *n == other).unwrap()],
        })
    };
    let time = Time { year: 2026, month: 11, day: 25, hour: 17, minute: 41, second: 9 };
    assert_eq!(clock(0b010, [0x09, 0x41, 0x17, 0x25, 0x11, 0x26, 0x20]), Some(time));
    assert_eq!(clock(0b110, [9, 41, 17, 25, 11, 26, 20]), Some(time));
    assert_eq!(clock(0b100, [9, 41, 5 | 0x80, 25, 11, 26, 20]), Some(time), "5 pm");
    let midnight = clock(0b000, [0x09, 0x41, 0x12, 0x25, 0x11, 0x26, 0x20]);
    assert_eq!(midnight, Some(Time { hour: 0, ..time }), "12 am");
    assert_eq!(time.to_string(), "2026-11-25 17:41:09 UTC");
    assert_eq!(rtc::read(|_| 0x7f), None, "nothing there");
    assert_eq!(rtc::read(|_| 0xff), None, "for ever updating");
}

#[test]
fn cpuid_is_told_in_words() {
    fn word(text: &[u8; 4]) -> u32 {
        u32::from_le_bytes(*text)
    }
    fn answer(leaf: u32, _: u32) -> [u32; 4] {
        match leaf {
            0 => [7, word(b"Auth"), word(b"cAMD"), word(b"enti")],
            1 => [0x00a2_0f12, 0, 1 << 31 | 1 << 25, 1 << 26],
            7 => [0, 1 << 5, 0, 0],
            0x4000_0000 => [0x4000_0001, word(b"KVMK"), word(b"VMKV"), word(b"M\0\0\0")],
            0x4000_0001 => [1 << 3, 0, 0, 0],
            0x8000_0000 => [0x8000_0008, 0, 0, 0],
            0x8000_0002 => [word(b"A pr"), word(b"oces"), word(b"sor "), word(b"    ")],
            0x8000_0008 => [0x3030, 0, 0, 0],
            _ => [0; 4],
        }
    }
    let mut text = String::new();
    cpu::print(&mut text, answer);
    let expected = "processor  AuthenticAMD, A processor\n           family 0x19, model 0x21, stepping 2; 48 address bits\n           \
                    features: sse2 aes avx2\nhypervisor KVMKVMKVM\n";
    assert_eq!(text, expected);
    assert!(cpu::has_kvm_clock(answer));
    assert!(!cpu::has_kvm_clock(|_, _| [0; 4]));
}

#[test]
fn the_mcfg_tells_where_configuration_space_is() {
    let entry = |segment: u16| {
        [&0xb000_0000_u64.to_le_bytes()[..], &segment.to_le_bytes(), &[0, 255], &[0; 4]].concat()
    };
    let read = |body: &[u8]| {
        let memory = Fake::default().table(0x1000, b"MCFG", body);
        acpi::ecam(&memory, &Table { signature: *b"MCFG", at: 0x1000, len: 36 + body.len() as u32 })
    };
    assert_eq!(read(&[vec![0; 8], entry(0)].concat()), Some((0xb000_0000, 0, 255)));
    assert_eq!(read(&[vec![0; 8], entry(1)].concat()), None);
    assert_eq!(read(&[0; 8]), None);
}

#[test]
fn the_functions_of_a_bus_are_listed() {
    let function = |id: u32, class: u32, header: u32| {
        let words = [id, 0, class << 16, header << 16];
        words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>()
    };
    let memory = Fake::default()
        .with(0xc000_0000, function(0x1234_1b36, 0x0600, 0))
        .with(0xc000_8000, function(0x1041_1af4, 0x0200, 0x80))
        .with(0xc000_b000, function(0x1042_1af4, 0x0180, 0));
    let mut text = String::new();
    pci::print(&mut text, &memory, 0xc000_0000, 0);
    let expected = "  00:00.0  1b36:1234  class 0600, host bridge\n  00:01.0  1af4:1041  class 0200, network\n  \
                    00:01.3  1af4:1042  class 0180, mass storage\n";
    assert_eq!(text, expected);
}

#[test]
fn a_line_is_edited_as_on_a_terminal() {
    let typed = |bytes: &[u8]| {
        let (mut line, mut echo, mut lines) = (Line::new(), String::new(), Vec::new());
        for byte in bytes {
            if line.take(*byte, &mut echo) == Typed::Done {
                lines.push(line.text().to_owned());
                line.clear();
            }
        }
        (lines, echo)
    };
    assert_eq!(typed(b"cpu\r").0, ["cpu"]);
    assert_eq!(typed(b" cpu \r\nmem\n\n").0, ["cpu", "mem", ""], "each end of line counts once");
    assert_eq!(typed(b"cpx\x7fu\r"), (vec!["cpu".into()], "cpx\x08 \x08u\n".into()));
    assert_eq!(typed(b"\x08\x08abc\x15mem\r").0, ["mem"]);
    assert_eq!(typed(b"\x1b[A\xffx\0\r").0, ["[Ax"], "what is no character is dropped");
    let (lines, echo) = typed(&[&[b'x'; 100][..], b"\r"].concat());
    assert_eq!((lines[0].len(), echo.len()), (78, 79), "what does not fit is not shown either");
}

#[test]
fn the_image_is_an_elf_from_1_mib_on_with_a_pvh_entry() {
    if IMAGE.is_empty() {
        eprintln!("NOT RUN: the guest is not built on this processor");
        assert_ne!(std::env::consts::ARCH, "x86_64");
        return;
    }
    assert_eq!(&IMAGE[..6], b"\x7fELF\x02\x01");
    assert!(IMAGE.windows(16).any(|w| w == b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0"));
    let here = env!("CARGO_MANIFEST_DIR").as_bytes();
    assert!(!IMAGE.windows(here.len()).any(|w| w == here), "it names the place where it was built");
    assert!(IMAGE.len() < 100 << 10, "{} bytes", IMAGE.len());
}
