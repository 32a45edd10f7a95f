//! Any RAM size, reserved ranges, initrd, command line and CPUs: what the guest is told must be true.

use super::images;
use super::input::Input;
use drystone_loader::acpi::{InterruptOverride, Polarity, Trigger};
use drystone_loader::{AcpiConfig, Boot, CommandLine, Entry, Initrd, LinuxImage, MemoryMap, map, setup};
use drystone_memory::{GuestRam, Layout, RamConfig, RamMap};
use std::ops::Range;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

const PAGE: u64 = 4096;
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// Builds a guest from `data` and reads back what it was given.
///
/// # Panics
/// If the memory map, the addresses in the boot parameters or the ACPI tables are not true; if an error is not one line.
pub fn boot_params(data: &[u8]) {
    let mut input = Input::new(data);
    let Ok(layout) = Layout::new(ram_size(&mut input), 46) else { return };
    let image = kernel(&mut input);
    let initrd_len = usize::from(input.u16()) * usize::from(input.u8() % 16);
    let initrd = Initrd::from_bytes(vec![0x5a; initrd_len], "fuzz").ok();
    assert_eq!(initrd.is_none(), initrd_len == 0);
    let (apic_ids, overrides) = (apic_ids(&mut input), overrides(&mut input));
    let acpi = AcpiConfig { apic_ids: &apic_ids, overrides: &overrides, ..Default::default() };
    let reserved: Vec<_> = (0..input.u8()).map(|_| range(&mut input)).collect();
    let mut cmdline = CommandLine::new();
    let line = String::from_utf8_lossy(input.rest()).into_owned();
    let accepted = cmdline.push_user(&line).is_ok();
    assert!(accepted || line.chars().any(char::is_control));

    let Ok(image) = image else { return };
    let Ok(ram) = GuestRam::new(&layout, &RamConfig::default()) else { return };
    let parts = Boot {
        kernel: &image,
        initrd: initrd.as_ref(),
        cmdline: &cmdline,
        acpi: Some(&acpi),
        reserved: &reserved,
    };
    let memory = ram.view().memory();
    match setup(&*memory, &layout, &parts) {
        Ok(entry) => {
            check_map(&memory, &layout, &entry, &reserved);
            check_addresses(&memory, &entry, &cmdline, &image);
            check_acpi(&memory, &entry);
        }
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
}

/// Mostly a few MiB, sometimes around or above the device window.
fn ram_size(input: &mut Input<'_>) -> u64 {
    let base = match input.u8() % 4 {
        0 => Layout::WINDOW_32_START,
        1 => 2 << 30,
        _ => 0,
    };
    base + u64::from(input.u16() % 8192) * PAGE
}

fn kernel(input: &mut Input<'_>) -> Result<LinuxImage, drystone_loader::KernelError> {
    let choice = input.u8();
    let mut file = if choice & 1 == 0 { images::bzimage() } else { images::elf() };
    if choice & 2 != 0 {
        // init_size, initrd_addr_max and cmdline_size.
        for offset in [0x260, 0x22c, 0x238] {
            images::put(&mut file, offset, &input.u32().to_le_bytes());
        }
    }
    LinuxImage::from_bytes(file, "fuzz")
}

fn apic_ids(input: &mut Input<'_>) -> Vec<u32> {
    let (count, first) = (u32::from(input.u16() % 2048), input.u32());
    (0..count).map(|i| first.wrapping_add(i)).collect()
}

fn overrides(input: &mut Input<'_>) -> Vec<InterruptOverride> {
    let one = |input: &mut Input<'_>| InterruptOverride {
        isa_irq: input.u8(),
        gsi: input.u8().into(),
        polarity: Polarity::Low,
        trigger: Trigger::Level,
    };
    (0..input.u8() % 4).map(|_| one(input)).collect()
}

/// Mostly pages somewhere in the first 4 GiB, sometimes anything.
fn range(input: &mut Input<'_>) -> Range<u64> {
    if input.u8().is_multiple_of(8) {
        return input.u64()..input.u64();
    }
    let start = u64::from(input.u16()) << 16;
    start..start + u64::from(input.u16()) * PAGE
}

struct E820(u64, u64, u32);

fn e820(memory: &RamMap) -> Vec<E820> {
    let at = |offset| GuestAddress(map::BOOT_PARAMS + offset);
    let count: u8 = memory.read_obj(at(0x1e8)).unwrap();
    assert!(usize::from(count) <= MemoryMap::MAX_ENTRIES);
    let entry = |i| {
        let (start, len): (u64, u64) = (memory.read_obj(at(i)).unwrap(), memory.read_obj(at(i + 8)).unwrap());
        E820(
            start,
            start.checked_add(len).expect("no range goes around"),
            memory.read_obj(at(i + 16)).unwrap(),
        )
    };
    (0..u64::from(count)).map(|i| entry(0x2d0 + i * 20)).collect()
}

/// The map is in order, and says "RAM" of exactly what is RAM and neither reserved by the caller nor by us.
fn check_map(memory: &RamMap, layout: &Layout, entry: &Entry, reserved: &[Range<u64>]) {
    let map = e820(memory);
    assert!(map.windows(2).all(|pair| pair[0].1 <= pair[1].0), "not ascending");
    assert!(map.iter().all(|e| e.0 < e.1 && (e.2 == E820_RAM || e.2 == E820_RESERVED)));
    let kind_at = |address| map.iter().find(|e| (e.0..e.1).contains(&address)).map(|e| e.2);
    let is_reserved = |address| {
        (map::CONVENTIONAL_END..map::HIGH_MEMORY).contains(&address)
            || reserved.iter().any(|r| r.contains(&address))
    };
    let is_ram = |address| layout.ram().iter().any(|r| (r.base..r.base + r.len).contains(&address));
    // The kind can only change where something begins or ends: looking there is looking everywhere.
    let edges = map.iter().flat_map(|e| [e.0, e.1]).chain(reserved.iter().flat_map(|r| [r.start, r.end]));
    let edges = edges.chain(layout.ram().iter().flat_map(|r| [r.base, r.base + r.len]).collect::<Vec<_>>());
    for address in edges.flat_map(|edge| [edge.saturating_sub(1), edge]) {
        let expected =
            if is_reserved(address) { Some(E820_RESERVED) } else { is_ram(address).then_some(E820_RAM) };
        assert_eq!(kind_at(address), expected, "at {address:#x}");
    }
    for piece in [Some(entry.kernel.clone()), entry.initrd.clone()].into_iter().flatten() {
        assert!(map.iter().any(|e| e.2 == E820_RAM && e.0 <= piece.start && piece.end <= e.1), "{piece:x?}");
    }
}

fn check_addresses(memory: &RamMap, entry: &Entry, cmdline: &CommandLine, image: &LinuxImage) {
    let field = |offset| -> u32 { memory.read_obj(GuestAddress(entry.boot_params + offset)).unwrap() };
    let wide = |low, high| u64::from(field(low)) | u64::from(field(high)) << 32;
    assert_eq!(wide(0x70, 0x74), entry.rsdp.unwrap_or(0));
    let initrd = entry.initrd.clone().unwrap_or(0..0);
    assert_eq!(wide(0x218, 0x0c0), initrd.start);
    assert_eq!(wide(0x21c, 0x0c4), initrd.end - initrd.start);
    assert!(initrd.is_empty() || initrd.end - 1 <= u64::from(field(0x22c)), "above the kernel's limit");
    assert!(initrd.start.is_multiple_of(PAGE));
    assert!(initrd.end <= entry.kernel.start || entry.kernel.end <= initrd.start);
    let mut content = vec![0; (initrd.end - initrd.start) as usize];
    memory.read_slice(&mut content, GuestAddress(initrd.start)).unwrap();
    assert!(content.iter().all(|byte| *byte == 0x5a), "something else was written over the initrd");

    let line = cmdline.render(image.cmdline_max()).expect("it was accepted");
    let mut text = vec![0xff; line.len() + 1];
    memory.read_slice(&mut text, GuestAddress(field(0x228).into())).unwrap();
    assert_eq!(text, [line.as_bytes(), &[0]].concat());
}

/// Follows the tables as a guest does.
fn check_acpi(memory: &RamMap, entry: &Entry) {
    let read = |address: u64, len: usize| {
        assert!(map::ACPI.start <= address && address + len as u64 <= map::ACPI.end);
        let mut bytes = vec![0; len];
        memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    };
    let table = |address: u64| {
        let len = read(address, 8);
        let bytes = read(address, u32::from_le_bytes(len[4..8].try_into().unwrap()) as usize);
        assert_eq!(bytes.iter().fold(0_u8, |sum, b| sum.wrapping_add(*b)), 0, "checksum at {address:#x}");
        bytes
    };
    let rsdp = read(entry.rsdp.expect("there are tables"), 36);
    let xsdt = table(u64::from_le_bytes(rsdp[24..32].try_into().unwrap()));
    let tables: Vec<_> =
        xsdt[36..].chunks(8).map(|a| table(u64::from_le_bytes(a.try_into().unwrap()))).collect();
    assert_eq!(tables.iter().map(|t| &t[..4]).collect::<Vec<_>>(), [b"FACP", b"APIC"]);
    assert_eq!(&table(u64::from_le_bytes(tables[0][140..148].try_into().unwrap()))[..4], b"DSDT");
}
