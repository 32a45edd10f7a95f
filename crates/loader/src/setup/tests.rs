use super::*;
use crate::{AcpiError, BootParamsError, CmdlineError, InitrdError, KernelError};
use drystone_memory::{GuestRam, RamConfig};
use drystone_testkit::fuzz::images::{LOAD_ADDRESS, PVH_ENTRY, bzimage, elf};
use vm_memory::{Bytes, GuestAddressSpace};

const MIB: u64 = 1 << 20;

struct Parts {
    kernel: KernelImage,
    initrd: Initrd,
    cmdline: CommandLine,
}

fn parts(kernel: Vec<u8>) -> Parts {
    let mut cmdline = CommandLine::new();
    cmdline.push_default("console=ttyS0").unwrap();
    let initrd = Initrd::from_bytes(vec![0x5a; 5000], "i").unwrap();
    Parts { kernel: KernelImage::from_bytes(kernel, "k").unwrap(), initrd, cmdline }
}

impl Parts {
    fn boot<'a>(&'a self, acpi: &'a AcpiConfig<'a>) -> Boot<'a> {
        Boot {
            kernel: &self.kernel,
            protocol: None,
            initrd: Some(&self.initrd),
            cmdline: &self.cmdline,
            acpi: Some(acpi),
            reserved: &[],
        }
    }
}

fn guest(size: u64) -> (Layout, GuestRam) {
    let layout = Layout::new(size, 46).unwrap();
    let ram = GuestRam::new(&layout, &RamConfig::default()).unwrap();
    (layout, ram)
}

fn all(ram: &GuestRam, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    ram.view().memory().read_slice(&mut bytes, GuestAddress(0)).unwrap();
    bytes
}

#[test]
fn a_guest_is_set_up_alike_after_each_reset() {
    for image in [bzimage(), elf()] {
        let (layout, ram) = guest(8 * MIB);
        let parts = parts(image);
        let acpi = AcpiConfig { apic_ids: &[0, 1], ..Default::default() };
        let first = setup(&*ram.view().memory(), &layout, &parts.boot(&acpi)).unwrap();
        assert!(first.kernel.contains(&first.rip) && first.kernel.start == LOAD_ADDRESS);
        assert_eq!((first.boot_params, first.rsdp), (0x7000, Some(0xe_0000)));
        assert_eq!(first.initrd, Some(8 * MIB - 8192..8 * MIB - 8192 + 5000));
        let content = all(&ram, 8 * MIB);
        assert_eq!(&content[0xe_0000..0xe_0008], b"RSD PTR ");
        assert_eq!(content[0x7070..0x7078], 0xe_0000_u64.to_le_bytes());

        // The guest scribbles over everything; the reset gives its memory back to the host.
        ram.view().memory().write_slice(&[0xee; 8 << 20], GuestAddress(0)).unwrap();
        ram.discard_all().unwrap();
        let second = setup(&*ram.view().memory(), &layout, &parts.boot(&acpi)).unwrap();
        assert_eq!(second, first);
        assert!(all(&ram, 8 * MIB) == content, "memory differs after the reset");
    }
}

#[test]
fn the_protocol_asked_for_is_followed_or_refused_before_anything_is_written() {
    let (layout, ram) = guest(8 * MIB);
    let acpi = AcpiConfig { apic_ids: &[0], ..Default::default() };
    let both = parts(elf());
    let pvh = Boot { protocol: Some(Protocol::Pvh), ..both.boot(&acpi) };
    let entry = setup(&*ram.view().memory(), &layout, &pvh).unwrap();
    assert_eq!((entry.protocol, entry.rip), (Protocol::Pvh, PVH_ENTRY));
    assert_eq!(all(&ram, MIB)[0x7000..0x7004], 0x336e_c578_u32.to_le_bytes());

    ram.take_dirty();
    let linux = parts(bzimage());
    let pvh = Boot { protocol: Some(Protocol::Pvh), ..linux.boot(&acpi) };
    let error = setup(&*ram.view().memory(), &layout, &pvh).unwrap_err();
    assert!(matches!(error, SetupError::Kernel(KernelError::Protocol { .. })), "{error}");
    assert_eq!(ram.take_dirty().iter().flat_map(|d| &d.bitmap).sum::<u64>(), 0);
}

#[test]
fn initrd_and_acpi_are_optional() {
    let (layout, ram) = guest(8 * MIB);
    let parts = parts(bzimage());
    let boot = Boot {
        kernel: &parts.kernel,
        protocol: None,
        initrd: None,
        cmdline: &parts.cmdline,
        acpi: None,
        reserved: &[],
    };
    let entry = setup(&*ram.view().memory(), &layout, &boot).unwrap();
    assert_eq!((entry.initrd, entry.rsdp), (None, None));
    assert!(all(&ram, MIB)[0xe_0000..].iter().all(|b| *b == 0));
}

#[test]
fn the_first_part_that_fails_is_named() {
    let (layout, ram) = guest(8 * MIB);
    let good = parts(bzimage());
    let acpi = AcpiConfig { apic_ids: &[0], ..Default::default() };
    let memory = ram.view().memory();
    let fails = |boot: &Boot<'_>| setup(&*memory, &layout, boot).unwrap_err();

    let no_cpu = AcpiConfig::default();
    assert!(matches!(fails(&good.boot(&no_cpu)), SetupError::Acpi(AcpiError::NoCpu)));
    let mut long = CommandLine::new();
    long.push_user(&"x".repeat(2048)).unwrap();
    let error = fails(&Boot { cmdline: &long, ..good.boot(&acpi) });
    assert_eq!(error.to_string(), "kernel command line: 2048 bytes are 1 too many, this kernel takes 2047");
    assert!(matches!(error, SetupError::Cmdline(CmdlineError::TooLong { .. })));
    let reserved = [0..0, LOAD_ADDRESS..LOAD_ADDRESS + 1];
    let error = fails(&Boot { reserved: &reserved, ..good.boot(&acpi) });
    assert!(matches!(error, SetupError::BootParams(BootParamsError::Range { .. })));
    let written: u64 = ram.take_dirty().iter().flat_map(|d| &d.bitmap).sum();
    assert_eq!(written, 0, "these are found before anything is written");

    let error = fails(&Boot { reserved: &reserved[1..], ..good.boot(&acpi) });
    assert!(matches!(error, SetupError::BootParams(BootParamsError::Overlap { what: "kernel", .. })));
    let large = Initrd::from_bytes(vec![0; 8 << 20], "i").unwrap();
    let error = fails(&Boot { initrd: Some(&large), ..good.boot(&acpi) });
    assert!(matches!(error, SetupError::Initrd(InitrdError::DoesNotFit { .. })));
}

#[test]
fn ram_that_is_too_small_is_refused() {
    let parts = parts(bzimage());
    let acpi = AcpiConfig { apic_ids: &[0], ..Default::default() };
    for size in [4096, MIB] {
        let (layout, ram) = guest(size);
        let error = setup(&*ram.view().memory(), &layout, &parts.boot(&acpi)).unwrap_err();
        assert!(matches!(error, SetupError::Memory { ram } if ram == size), "{error}");
    }
    let (layout, ram) = guest(2 * MIB);
    let error = setup(&*ram.view().memory(), &layout, &parts.boot(&acpi)).unwrap_err();
    assert!(matches!(error, SetupError::Kernel(KernelError::DoesNotFit { .. })), "{error}");
    // Memory and layout disagree: what counts is the smaller.
    let mut image = bzimage();
    drystone_testkit::fuzz::images::put(&mut image, 0x258, &(32 * MIB).to_le_bytes());
    let far = self::parts(image);
    for (in_memory, in_layout) in [(8 * MIB, 64 * MIB), (64 * MIB, 8 * MIB)] {
        let (ram, layout) = (guest(in_memory).1, guest(in_layout).0);
        let error = setup(&*ram.view().memory(), &layout, &far.boot(&acpi)).unwrap_err();
        assert!(matches!(error, SetupError::Kernel(KernelError::DoesNotFit { .. })), "{error}");
    }
}
