//! Any RAM size, reserved ranges, initrd, command line and CPUs: what the guest is told must be true.

use super::images;
use super::input::Input;
use drystone_loader::acpi::{InterruptOverride, Polarity, Trigger};
use drystone_loader::{
    AcpiConfig, Boot, CommandLine, Entry, Initrd, KernelImage, MemoryMap, Protocol, map, setup,
};
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
    let (image, protocol) = kernel(&mut input);
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
        protocol,
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

fn kernel(input: &mut Input<'_>) -> (Result<KernelImage, drystone_loader::KernelError>, Option<Protocol>) {
    let choice = input.u8();
    let protocol = [None, Some(Protocol::Pvh), Some(Protocol::Linux), None][usize::from(choice >> 2 & 3)];
    let mut file = match choice & 0x11 {
        0 | 0x10 => images::bzimage(),
        1 => images::elf(),
        _ => images::pvh_elf(),
    };
    if choice & 2 != 0 {
        // init_size, initrd_addr_max and cmdline_size.
        for offset in [0x260, 0x22c, 0x238] {
            images::put(&mut file, offset, &input.u32().to_le_bytes());
        }
    }
    (KernelImage::from_bytes(file, "fuzz"), protocol)
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

/// The memory map, from wherever the protocol has it.
fn e820(memory: &RamMap, entry: &Entry) -> Vec<E820> {
    let (first, stride, count) = match entry.protocol {
        Protocol::Linux => {
            let count: u8 = memory.read_obj(GuestAddress(entry.boot_params + 0x1e8)).unwrap();
            (entry.boot_params + 0x2d0, 20, u64::from(count))
        }
        Protocol::Pvh => {
            let count: u32 = memory.read_obj(GuestAddress(entry.boot_params + 48)).unwrap();
            (memory.read_obj(GuestAddress(entry.boot_params + 40)).unwrap(), 24, u64::from(count))
        }
    };
    assert!(count <= MemoryMap::MAX_ENTRIES as u64);
    let one = |at: u64| {
        let field = |offset| -> u64 { memory.read_obj(GuestAddress(at + offset)).unwrap() };
        let end = field(0).checked_add(field(8)).expect("no range goes around");
        E820(field(0), end, memory.read_obj(GuestAddress(at + 16)).unwrap())
    };
    (0..count).map(|i| one(first + i * stride)).collect()
}

/// The map is in order, and says "RAM" of exactly what is RAM and neither reserved by the caller nor by us.
fn check_map(memory: &RamMap, layout: &Layout, entry: &Entry, reserved: &[Range<u64>]) {
    let map = e820(memory, entry);
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

/// What the guest is told, in whichever structure: root pointer, initrd, the highest address of the initrd, command line.
struct Told {
    rsdp: u64,
    initrd: Range<u64>,
    initrd_max: u64,
    cmdline: u64,
}

fn zero_page(memory: &RamMap, at: u64) -> Told {
    let field = |offset| -> u32 { memory.read_obj(GuestAddress(at + offset)).unwrap() };
    let wide = |low, high| u64::from(field(low)) | u64::from(field(high)) << 32;
    let initrd = wide(0x218, 0x0c0);
    Told {
        rsdp: wide(0x70, 0x74),
        initrd: initrd..initrd + wide(0x21c, 0x0c4),
        initrd_max: field(0x22c).into(),
        cmdline: field(0x228).into(),
    }
}

fn start_info(memory: &RamMap, at: u64) -> Told {
    let field = |at| -> u64 { memory.read_obj(GuestAddress(at)).unwrap() };
    assert_eq!(field(at), 1 << 32 | 0x336e_c578, "magic and version");
    let modules: u32 = memory.read_obj(GuestAddress(at + 12)).unwrap();
    assert!(modules <= 1);
    let list = field(at + 16);
    assert_eq!(list == 0, modules == 0);
    let initrd = if modules == 0 { 0..0 } else { field(list)..field(list) + field(list + 8) };
    Told { rsdp: field(at + 32), initrd, initrd_max: u64::from(i32::MAX as u32), cmdline: field(at + 24) }
}

fn check_addresses(memory: &RamMap, entry: &Entry, cmdline: &CommandLine, image: &KernelImage) {
    let told = match entry.protocol {
        Protocol::Linux => zero_page(memory, entry.boot_params),
        Protocol::Pvh => start_info(memory, entry.boot_params),
    };
    let initrd = entry.initrd.clone().unwrap_or(0..0);
    assert_eq!((told.rsdp, &told.initrd), (entry.rsdp.unwrap_or(0), &initrd));
    assert!(initrd.is_empty() || initrd.end - 1 <= told.initrd_max, "above the kernel's limit");
    assert!(initrd.start.is_multiple_of(PAGE));
    assert!(initrd.end <= entry.kernel.start || entry.kernel.end <= initrd.start);
    let mut content = vec![0; (initrd.end - initrd.start) as usize];
    memory.read_slice(&mut content, GuestAddress(initrd.start)).unwrap();
    assert!(content.iter().all(|byte| *byte == 0x5a), "something else was written over the initrd");

    let line = cmdline.render(image.cmdline_max()).expect("it was accepted");
    let mut text = vec![0xff; line.len() + 1];
    memory.read_slice(&mut text, GuestAddress(told.cmdline)).unwrap();
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
