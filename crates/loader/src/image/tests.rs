use super::*;
use drystone_memory::{GuestRam, RamConfig};
use drystone_testkit::fuzz::images::{
    ELF_NOTES, ELF_PHDRS, LOAD_ADDRESS, PVH_ENTRY, bzimage, elf, notes, put, pvh_elf,
};
use std::io::Write;
use vm_memory::GuestAddressSpace;

const MIB: u64 = 1 << 20;

fn guest(mib: u64) -> (Layout, GuestRam) {
    let layout = Layout::new(mib * MIB, 46).unwrap();
    let ram = GuestRam::new(&layout, &RamConfig::default()).unwrap();
    (layout, ram)
}

fn read(ram: &GuestRam, address: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ram.view().memory().read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

fn load(image: Vec<u8>, mib: u64) -> Result<LoadedKernel, KernelError> {
    let (layout, ram) = guest(mib);
    KernelImage::from_bytes(image, "k")?.load(&*ram.view().memory(), &layout)
}

/// The error that an image with these bytes at these places gives when it is opened.
fn broken(mut image: Vec<u8>, changes: &[(usize, &[u8])]) -> String {
    changes.iter().for_each(|(offset, bytes)| put(&mut image, *offset, bytes));
    KernelImage::from_bytes(image, "k").unwrap_err().to_string()
}

#[test]
fn a_bzimage_lies_at_its_preferred_address_and_is_entered_512_bytes_in() {
    let (layout, ram) = guest(8);
    let image = KernelImage::from_bytes(bzimage(), "k").unwrap();
    assert_eq!((image.format(), image.cmdline_max()), (Format::BzImage, 2047));
    let kernel = image.load(&*ram.view().memory(), &layout).unwrap();
    assert_eq!(kernel.entry(None).unwrap(), (Protocol::Linux, LOAD_ADDRESS + 0x200));
    assert_eq!(kernel.range(), LOAD_ADDRESS..LOAD_ADDRESS + 0x1_0000);
    assert_eq!(read(&ram, LOAD_ADDRESS, 4096), bzimage()[1024..]);
    assert_eq!({ kernel.header.code32_start }, LOAD_ADDRESS as u32);
}

#[test]
fn an_elf_lies_where_its_segments_ask_and_what_is_not_in_the_file_is_cleared() {
    let (layout, ram) = guest(8);
    ram.view().memory().write_slice(&[0xff; 0x4000], GuestAddress(LOAD_ADDRESS)).unwrap();
    let image = KernelImage::from_bytes(elf(), "k").unwrap();
    assert_eq!((image.format(), image.cmdline_max()), (Format::Elf, 2047));
    let kernel = image.load(&*ram.view().memory(), &layout).unwrap();
    assert_eq!(kernel.entry(None).unwrap(), (Protocol::Linux, LOAD_ADDRESS));
    assert_eq!(kernel.range(), LOAD_ADDRESS..LOAD_ADDRESS + 0x3000);
    assert_eq!(read(&ram, LOAD_ADDRESS, 3), [0xf4, 0xeb, 0xfd]);
    assert_eq!(read(&ram, LOAD_ADDRESS + 0x1000, 0x80), [0xda; 0x80]);
    assert_eq!(read(&ram, LOAD_ADDRESS + 0x1080, 0x1f80), [0; 0x1f80]);
    assert_eq!(read(&ram, LOAD_ADDRESS + 0x3000, 4), [0xff; 4], "cleared too much");
}

#[test]
fn no_byte_of_a_large_bss_is_left_out() {
    let (layout, ram) = guest(8);
    let len = 3 * CLEAR_LEN + 5;
    ram.view().memory().write_slice(&vec![0xff; 1 << 20], GuestAddress(LOAD_ADDRESS)).unwrap();
    let mut image = elf();
    put(&mut image, ELF_PHDRS + 56 + 0x28, &(0x80 + len as u64).to_le_bytes());
    KernelImage::from_bytes(image, "k").unwrap().load(&*ram.view().memory(), &layout).unwrap();
    let after = read(&ram, LOAD_ADDRESS + 0x1080, len + 1);
    assert!(after[..len].iter().all(|b| *b == 0) && after[len] == 0xff);
}

#[test]
fn an_image_is_loaded_again_after_its_name_was_taken_by_another_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vmlinuz");
    std::fs::write(&path, bzimage()).unwrap();
    let (layout, ram) = guest(8);
    let image = KernelImage::open(&path).unwrap();
    image.load(&*ram.view().memory(), &layout).unwrap();
    std::fs::rename(&path, dir.path().join("old")).unwrap();
    std::fs::write(&path, "something else").unwrap();
    ram.discard_all().unwrap();
    image.load(&*ram.view().memory(), &layout).unwrap();
    assert_eq!(read(&ram, LOAD_ADDRESS, 4096), bzimage()[1024..]);
}

#[test]
fn an_image_that_is_changed_in_place_is_checked_again() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bzimage()).unwrap();
    let (layout, ram) = guest(8);
    let image = KernelImage::open(file.path()).unwrap();
    let mut low = bzimage();
    put(&mut low, 0x258, &0x7000_u64.to_le_bytes());
    std::fs::write(file.path(), low).unwrap();
    let error = image.load(&*ram.view().memory(), &layout).unwrap_err();
    assert!(matches!(error, KernelError::Corrupt { .. }), "{error}");
    file.as_file().set_len(2000).unwrap();
    let error = image.load(&*ram.view().memory(), &layout).unwrap_err();
    assert!(matches!(error, KernelError::Truncated { found: 2000, .. }), "{error}");
    assert!(ram.take_dirty().iter().all(|d| d.bitmap.iter().all(|word| *word == 0)), "it wrote something");
}

#[test]
fn what_cannot_be_opened_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let open = |path: &Path| KernelImage::open(path).unwrap_err().to_string();
    let name = |path: &Path| format!("kernel at {}: ", path.display());
    let missing = dir.path().join("missing");
    assert_eq!(open(&missing), name(&missing) + "cannot open: No such file or directory (os error 2)");
    assert_eq!(open(dir.path()), name(dir.path()) + "cannot open: it is a directory");
    let null = Path::new("/dev/null");
    assert_eq!(open(null), name(null) + "cannot open: it is not a regular file");
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    assert!(open(&empty).ends_with("it looks like an empty file"));
}

#[test]
fn a_truncated_image_says_what_is_missing() {
    for len in [0x230, 0x270, 0x400, 0x1000, 1024 + 4096 - 16] {
        let error = broken(bzimage()[..len].to_vec(), &[]);
        let promised = if len < 0x26c { 0x26c } else { 1024 + 4096 };
        let expected = format!("promises {promised} bytes, the file has {len}");
        assert_eq!(error, format!("kernel at k: truncated: its header {expected}"));
    }
    // The last paragraph need not be full.
    assert!(KernelImage::from_bytes(&bzimage()[..1024 + 4096 - 15], "k").is_ok());
    for (len, promised) in [(63, 64), (64, 232), (0x400, 0x5ac), (0x5a8, 0x5ac)] {
        let error = broken(elf()[..len].to_vec(), &[]);
        let expected = format!("promises {promised} bytes, the file has {len}");
        assert_eq!(error, format!("kernel at k: truncated: its header {expected}"));
    }
}

#[test]
fn a_header_that_claims_gigabytes_is_truncated_not_believed() {
    let error = broken(bzimage(), &[(0x1f4, &[0xff; 4])]);
    assert_eq!(error, "kernel at k: truncated: its header promises 68719477744 bytes, the file has 5120");
    let error = broken(elf(), &[(ELF_PHDRS + 0x20, &(4_u64 << 30).to_le_bytes())]);
    assert!(error.contains("truncated: its header promises 4294968320 bytes, the file has 1536"), "{error}");
}

#[test]
fn a_bzimage_that_cannot_be_entered_in_64_bit_mode_is_not_supported() {
    for (change, expected) in [
        ((0x206, [5, 2].as_slice()), "boot protocol 2.05 has no 64-bit entry point (2.12 of Linux 3.8 does)"),
        ((0x236, &[0, 0]), "it is a 32-bit kernel (XLF_KERNEL_64 is not set)"),
        ((0x211, &[0]), "it is a zImage, to be loaded below 1 MiB"),
    ] {
        assert_eq!(broken(bzimage(), &[change]), format!("kernel at k: not supported: {expected}"));
    }
}

#[test]
fn a_bzimage_that_contradicts_itself_is_corrupt() {
    let eight = |value: u64| value.to_le_bytes();
    for (offset, bytes, expected) in [
        (0x201, [0x10].as_slice(), "its setup header ends at 0x212, before the size of the kernel"),
        (0x1f4, &[0x20, 0, 0, 0], "512 bytes of kernel do not reach its entry point"),
        (0x24c, &[1, 0xc, 0, 0], "its compressed payload ends at 0x1001 of 0x1000 bytes"),
        (0x258, &eight(0xf_ffff), "it asks to be loaded at 0xfffff, below 1 MiB"),
        (0x258, &eight(1 << 32), "it asks to be loaded at 0x100000000, above 4 GiB"),
        (0x258, &eight(u64::MAX), "it asks to be loaded at 0xffffffffffffffff, above 4 GiB"),
        (0x230, &[3, 0, 0, 0], "its alignment, 0x3, is not a power of two"),
        (0x230, &[0, 0, 0, 0], "its alignment, 0x0, is not a power of two"),
    ] {
        assert_eq!(broken(bzimage(), &[(offset, bytes)]), format!("kernel at k: corrupt: {expected}"));
    }
}

#[test]
fn an_elf_that_contradicts_itself_is_corrupt() {
    let eight = |value: u64| value.to_le_bytes();
    let second = ELF_PHDRS + 56;
    for (offset, bytes, expected) in [
        (0x36, [32, 0].as_slice(), "its program headers of 32 bytes at 0x40 make no sense"),
        (0x20, &eight(63), "its program headers of 56 bytes at 0x3f make no sense"),
        (0x38, &[0, 0], "it has 0 program headers, a kernel has 1 to 128"),
        (0x38, &[0xff, 0xff], "it has 65535 program headers, a kernel has 1 to 128"),
        (ELF_NOTES + 40, &[0, 1, 0x20, 0], "its PVH entry point 0x200100 is in none of its segments"),
        (ELF_NOTES + 40, &[0x80, 0x10, 0x20, 0], "its PVH entry point 0x201080 is in none of its segments"),
        (ELF_PHDRS + 0x18, &eight(0x7000), "it asks to be loaded at 0x7000, below 1 MiB"),
        (second + 0x18, &eight(0x20_00ff), "its segments at 0x2000ff and 0x200000 overlap"),
        (second + 0x28, &eight(0x7f), "its segment at 0x201000 has 128 bytes in the file, 127 in memory"),
        (
            second + 0x28,
            &eight(u64::MAX),
            "its segment at 0x201000 has 128 bytes in the file, 18446744073709551615 in memory",
        ),
    ] {
        assert_eq!(broken(elf(), &[(offset, bytes)]), format!("kernel at k: corrupt: {expected}"));
    }
    let error = broken(elf(), &[(ELF_PHDRS + 112, &[3])]);
    assert!(error.ends_with("it looks like a dynamically linked program"), "{error}");
}

#[test]
fn the_content_decides_the_protocol_and_the_user_may() {
    use Protocol::{Linux, Pvh};
    let (layout, ram) = guest(8);
    let (at, in_64_bits) = (PVH_ENTRY, LOAD_ADDRESS);
    let mut unnamed = elf();
    notes(&mut unnamed, b"");
    let mut pvh_only = pvh_elf();
    put(&mut pvh_only, 0x18, &u64::MAX.to_le_bytes()); // a virtual address, say
    let cases = [
        (bzimage(), vec![Linux], Ok((Linux, in_64_bits + 0x200)), Err("a bzImage never has one")),
        (elf(), vec![Linux, Pvh], Ok((Linux, in_64_bits)), Ok((Pvh, at))),
        (unnamed, vec![Linux], Ok((Linux, in_64_bits)), Err("it has no PVH entry")),
        (pvh_elf(), vec![Linux, Pvh], Ok((Pvh, at)), Ok((Pvh, at))),
        (pvh_only, vec![Pvh], Ok((Pvh, at)), Ok((Pvh, at))),
    ];
    for (image, all, auto, pvh) in cases {
        let image = KernelImage::from_bytes(image, "k").unwrap();
        let kernel = image.load(&*ram.view().memory(), &layout).unwrap();
        assert_eq!(image.protocols().collect::<Vec<_>>(), all);
        for (wanted, expected) in [(None, auto), (Some(Pvh), pvh)] {
            assert_eq!(image.protocol(wanted).ok(), kernel.entry(wanted).ok().map(|(protocol, _)| protocol));
            match (kernel.entry(wanted), expected) {
                (Err(error), Err(part)) => {
                    let error = error.to_string();
                    assert!(
                        error.starts_with("kernel at k: cannot be started by the boot protocol pvh: "),
                        "{error}"
                    );
                    assert!(error.contains(part), "{error}");
                }
                (found, expected) => assert_eq!(found.ok(), expected.ok(), "{wanted:?}"),
            }
        }
        assert_eq!(image.protocol(Some(Linux)).is_ok(), all.contains(&Linux));
    }
}

#[test]
fn an_elf_without_any_entry_point_is_corrupt() {
    let mut image = elf();
    notes(&mut image, b"");
    for entry in [0x20_0100_u64, 0x20_1080] {
        let error = broken(image.clone(), &[(0x18, &entry.to_le_bytes())]);
        assert_eq!(
            error,
            format!("kernel at k: corrupt: its entry point {entry:#x} is in none of its segments")
        );
    }
}

#[test]
fn fields_behind_the_headers_end_are_not_taken_from_the_code_that_lies_there() {
    let mut image = bzimage();
    image[0x201] = 0x62; // the header ends at 0x264, before handover_offset
    put(&mut image, 0x264, &[0xff; 8]);
    let header = load(image, 8).unwrap().header;
    assert_eq!(({ header.init_size }, { header.handover_offset }), (0x1_0000, 0));
}

#[test]
fn a_kernel_that_needs_more_ram_than_there_is_says_how_much() {
    let mut image = bzimage();
    put(&mut image, 0x260, &(6_u32 << 20).to_le_bytes());
    assert!(load(image.clone(), 8).is_ok(), "init_size ends exactly where RAM does");
    put(&mut image, 0x260, &((6_u32 << 20) + 1).to_le_bytes());
    assert_eq!(
        load(image, 8).unwrap_err().to_string(),
        "kernel at k: does not fit: it needs 0x200000..0x800001, guest RAM below 4 GiB ends at 0x800000; \
         give the guest at least 9 MiB"
    );
    let mut image = elf();
    put(&mut image, ELF_PHDRS + 56 + 0x28, &u64::to_le_bytes(1 << 40));
    assert!(matches!(load(image, 8), Err(KernelError::DoesNotFit { end: 0x100_0020_1000, .. })));
    // What follows the kernel, a signature for example, must fit as well.
    let image = [bzimage(), vec![1; 7 << 20]].concat();
    assert!(matches!(load(image, 8), Err(KernelError::DoesNotFit { .. })));
}

#[test]
fn an_alignment_beyond_the_preferred_address_moves_what_the_kernel_needs() {
    let mut image = bzimage();
    put(&mut image, 0x230, &(4_u32 << 20).to_le_bytes());
    assert_eq!(load(image, 8).unwrap().range(), LOAD_ADDRESS..0x41_0000);
}

#[test]
fn no_header_makes_the_command_line_leave_its_place() {
    let mut image = bzimage();
    put(&mut image, 0x238, &[0xff; 4]);
    let kernel = KernelImage::from_bytes(image, "k").unwrap();
    assert_eq!(kernel.cmdline_max() as u64, map::CMDLINE_SPACE - 1);
}
