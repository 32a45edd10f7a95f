use super::*;
use crate::KernelImage;
use drystone_memory::{GuestRam, Layout, RamConfig, RamMap};
use drystone_testkit::fuzz::images::{LOAD_ADDRESS, bzimage, elf, put};
use vm_memory::GuestAddressSpace;

const MIB: u64 = 1 << 20;

struct Guest {
    layout: Layout,
    ram: GuestRam,
    kernel: LoadedKernel,
}

impl Guest {
    fn new(image: Vec<u8>) -> Self {
        let layout = Layout::new(8 * MIB, 46).unwrap();
        let ram = GuestRam::new(&layout, &RamConfig::default()).unwrap();
        let kernel = KernelImage::from_bytes(image, "k").unwrap();
        let kernel = kernel.load(&*ram.view().memory(), &layout).unwrap();
        Self { layout, ram, kernel }
    }

    fn map(&self, reserved: &[Range<u64>]) -> MemoryMap {
        MemoryMap::new(&self.layout, reserved).unwrap()
    }

    fn memory(&self) -> impl std::ops::Deref<Target = RamMap> {
        self.ram.view().memory()
    }

    fn zero_page(&self) -> Vec<u8> {
        let mut page = vec![0; 4096];
        self.memory().read_slice(&mut page, GuestAddress(map::BOOT_PARAMS)).unwrap();
        page
    }
}

fn u32s(page: &[u8], offset: usize) -> u32 {
    crate::bytes::u32_at(page, offset).unwrap()
}

#[test]
fn the_zero_page_has_what_the_boot_protocol_asks_for_at_the_documented_offsets() {
    let mut image = bzimage();
    put(&mut image, 0x250, &0x1234_5678_u64.to_le_bytes()); // setup_data: for the loader to set
    let guest = Guest::new(image);
    let params = BootParams {
        kernel: &guest.kernel,
        cmdline: "console=ttyS0",
        initrd: Some(7 * MIB..7 * MIB + 1234),
        map: &guest.map(&[]),
        rsdp: Some(0xe_0000),
    };
    guest.memory().write_slice(&[0xff; 64], GuestAddress(map::CMDLINE)).unwrap();
    params.write(&*guest.memory(), Protocol::Linux).unwrap();
    let page = guest.zero_page();
    assert!(page[..0x40].iter().all(|b| *b == 0), "the screen");
    assert_eq!(page[0x70..0x78], 0xe_0000_u64.to_le_bytes(), "acpi_rsdp_addr");
    assert_eq!(page[0x1f1], 1, "setup_sects: the header is the image's own");
    assert_eq!(&page[0x1fe..0x206], b"\x55\xaa\xeb\x6aHdrS");
    assert_eq!((page[0x210], page[0x211]), (0xff, 1), "type_of_loader, loadflags");
    assert_eq!(u32s(&page, 0x214), LOAD_ADDRESS as u32, "code32_start");
    assert_eq!((u32s(&page, 0x218), u32s(&page, 0x0c0)), (7 << 20, 0), "ramdisk_image and its extension");
    assert_eq!((u32s(&page, 0x21c), u32s(&page, 0x0c4)), (1234, 0), "ramdisk_size and its extension");
    assert_eq!((u32s(&page, 0x228), u32s(&page, 0x0c8)), (0x2_0000, 0), "cmd_line_ptr and its extension");
    assert_eq!(page[0x250..0x258], [0; 8], "setup_data");
    assert_eq!(page[0x1ef], 0, "sentinel");
    assert_eq!(page[0x1e8], 3, "e820_entries");
    assert_eq!(page[0x2d0 + 20..0x2d0 + 28], 0x9_fc00_u64.to_le_bytes());
    assert_eq!(page[0x2d0 + 28..0x2d0 + 36], 0x6_0400_u64.to_le_bytes());
    assert_eq!([0, 1, 2, 3].map(|i| u32s(&page, 0x2d0 + i * 20 + 16)), [1, 2, 1, 0], "types");
    let mut line = [0; 14];
    guest.memory().read_slice(&mut line, GuestAddress(map::CMDLINE)).unwrap();
    assert_eq!(&line, b"console=ttyS0\0");
}

#[test]
fn an_elf_gets_a_header_and_what_is_absent_stays_zero() {
    let guest = Guest::new(elf());
    let params =
        BootParams { kernel: &guest.kernel, cmdline: "", initrd: None, map: &guest.map(&[]), rsdp: None };
    params.write(&*guest.memory(), Protocol::Linux).unwrap();
    let page = guest.zero_page();
    assert_eq!(&page[0x1fe..0x206], b"\x55\xaa\0\0HdrS");
    assert_eq!((page[0x210], page[0x211]), (0xff, 1));
    assert_eq!(u32s(&page, 0x238), 2047);
    assert_eq!([0x70, 0x74, 0x218, 0x21c, 0x0c0, 0x0c4].map(|at| u32s(&page, at)), [0; 6]);
}

#[test]
fn addresses_above_4_gib_are_split() {
    assert_eq!(zero_page::halves(0x1_2345_6789), (0x2345_6789, 1));
}

#[test]
fn pvhs_start_info_has_what_xen_documents_at_the_documented_offsets() {
    let guest = Guest::new(elf());
    guest.memory().write_slice(&[0xff; 4096], GuestAddress(map::BOOT_PARAMS)).unwrap();
    let map = guest.map(&[]);
    let mut params = BootParams {
        kernel: &guest.kernel,
        cmdline: "console=ttyS0",
        initrd: Some(7 * MIB..7 * MIB + 1234),
        map: &map,
        rsdp: Some(0xe_0000),
    };
    params.write(&*guest.memory(), Protocol::Pvh).unwrap();
    let page = guest.zero_page();
    let u64s = |at: u64| crate::bytes::u64_at(&page, (at & 0xfff) as usize).unwrap();
    assert_eq!(
        [0, 4, 8, 12].map(|at| u32s(&page, at)),
        [0x336e_c578, 1, 0, 1],
        "magic, version, flags, modules"
    );
    assert_eq!((u64s(24), u64s(32)), (map::CMDLINE, 0xe_0000), "cmdline_paddr, rsdp_paddr");
    let (module, table, count) = (u64s(16), u64s(40), u32s(&page, 48));
    assert_eq!([module, table].map(|at| at >> 12), [map::BOOT_PARAMS >> 12; 2]);
    assert_eq!([0, 8, 16, 24].map(|at| u64s(module + at)), [7 * MIB, 1234, 0, 0], "one module: the initrd");
    let entry = |i: u64| [0, 8, 16].map(|at| u64s(table + i * 24 + at));
    let expected = [[0, 0x9_fc00, 1], [0x9_fc00, 0x6_0400, 2], [MIB, 7 * MIB, 1]];
    assert_eq!((0..count.into()).map(entry).collect::<Vec<_>>(), expected, "RAM is 1, reserved 2");
    let mut line = [0; 14];
    guest.memory().read_slice(&mut line, GuestAddress(map::CMDLINE)).unwrap();
    assert_eq!(&line, b"console=ttyS0\0");

    (params.initrd, params.rsdp) = (None, None);
    params.write(&*guest.memory(), Protocol::Pvh).unwrap();
    let page = guest.zero_page();
    assert_eq!([12, 16, 20, 32, 36].map(|at| u32s(&page, at)), [0; 5], "what is absent is zero");
}

#[test]
fn a_reserved_range_over_what_is_loaded_is_refused() {
    let guest = Guest::new(bzimage());
    let kernel_end = LOAD_ADDRESS + 0x1_0000;
    let initrd = Some(7 * MIB..8 * MIB);
    let write = |reserved: Range<u64>| {
        let map = guest.map(std::slice::from_ref(&reserved));
        let params =
            BootParams { kernel: &guest.kernel, cmdline: "", initrd: initrd.clone(), map: &map, rsdp: None };
        params.write(&*guest.memory(), Protocol::Linux)
    };
    write(kernel_end..7 * MIB).unwrap();
    assert_eq!(
        write(kernel_end - 1..7 * MIB).unwrap_err().to_string(),
        "memory map: the reserved range 0x20ffff..0x700000 lies over the kernel"
    );
    assert!(matches!(write(7 * MIB..9 * MIB), Err(BootParamsError::Overlap { what: "initrd", .. })));
}

#[test]
fn a_command_line_longer_than_its_place_is_refused() {
    let guest = Guest::new(bzimage());
    let map = guest.map(&[]);
    let write = |len| {
        let line = "x".repeat(len);
        let params =
            BootParams { kernel: &guest.kernel, cmdline: &line, initrd: None, map: &map, rsdp: None };
        params.write(&*guest.memory(), Protocol::Linux)
    };
    write(0xffff).unwrap();
    assert!(matches!(write(0x1_0000), Err(BootParamsError::Address { .. })));
}
