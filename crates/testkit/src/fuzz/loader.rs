//! Any bytes as a kernel file.

use super::images;
use super::input::Input;
use drystone_loader::{
    AcpiConfig, Boot, CommandLine, Initrd, KernelError, KernelImage, Protocol, map, setup,
};
use drystone_memory::{GuestRam, Layout, RamConfig};
use std::ops::Range;
use vm_memory::GuestAddressSpace;

const RAM: u64 = 8 << 20;
const PAGE: u64 = 4096;
/// Every way to ask for a protocol.
const WANTED: [Option<Protocol>; 3] = [None, Some(Protocol::Linux), Some(Protocol::Pvh)];
/// Where kernel and initrd may be.
const HIGH: Range<u64> = map::HIGH_MEMORY..RAM;
/// What `setup` may write below 1 MiB.
const LOW: [Range<u64>; 3] =
    [map::BOOT_PARAMS..map::BOOT_PARAMS + PAGE, map::CMDLINE..map::CMDLINE + map::CMDLINE_SPACE, map::ACPI];

thread_local! {
    /// Mapping guest RAM anew for each input would be most of the time.
    static GUEST: (Layout, GuestRam) = {
        let layout = Layout::new(RAM, 46).expect("8 MiB have a layout");
        let ram = GuestRam::new(&layout, &RamConfig::default()).expect("the host has 8 MiB");
        (layout, ram)
    };
}

/// The first byte chooses what the rest is: a file as it is, or changes to a valid bzImage, vmlinux or other PVH kernel.
///
/// # Panics
/// If loading writes anywhere but where it may, says that a kernel lies where it does not, or gives another result the
/// second time; if an error is not one line.
pub fn loader(data: &[u8]) {
    let mut input = Input::new(data);
    let file = match input.u8() % 4 {
        0 => input.rest().to_vec(),
        1 => changed(images::bzimage(), &mut input),
        2 => changed(images::elf(), &mut input),
        _ => changed(images::pvh_elf(), &mut input),
    };
    let image = match KernelImage::from_bytes(file, "fuzz") {
        Ok(image) => image,
        Err(error) => return check_error(&error.to_string()),
    };
    GUEST.with(|(layout, ram)| load(&image, layout, ram));
}

fn load(image: &KernelImage, layout: &Layout, ram: &GuestRam) {
    let memory = ram.view().memory();
    ram.take_dirty();
    match image.load(&*memory, layout) {
        Ok(kernel) => {
            let range = kernel.range();
            assert!(range.start >= map::HIGH_MEMORY && range.end <= layout.low_ram_end(), "{range:x?}");
            for wanted in WANTED {
                check_entry(image.protocol(wanted), kernel.entry(wanted), &range);
            }
            assert_written(ram, &[range]);
            assert!(image.cmdline_max() == kernel.cmdline_max());
        }
        Err(error) => {
            check_error(&error.to_string());
            assert_written(ram, &[HIGH]);
        }
    }
    for wanted in WANTED {
        let first = boot(image, wanted, layout, ram);
        assert_eq!(boot(image, wanted, layout, ram), first, "loading again gives another result");
    }
}

/// Before and after loading the answer is the same, and the entry point is in the kernel.
fn check_entry(
    before: Result<Protocol, KernelError>,
    after: Result<(Protocol, u64), KernelError>,
    range: &Range<u64>,
) {
    match (before, after) {
        (Ok(protocol), Ok((same, entry))) => {
            assert!(protocol == same && range.contains(&entry), "{entry:#x}")
        }
        (Err(error), Err(same)) => {
            assert_eq!(error.to_string(), same.to_string());
            check_error(&error.to_string());
        }
        (before, after) => panic!("{before:?}, once loaded {after:?}"),
    }
}

/// The whole setup, with an initrd and ACPI. Returns the entry or the error, as text.
fn boot(image: &KernelImage, protocol: Option<Protocol>, layout: &Layout, ram: &GuestRam) -> String {
    let initrd = Initrd::from_bytes(vec![0x5a; 5000], "fuzz").expect("not empty");
    let mut cmdline = CommandLine::new();
    cmdline.push_default("console=ttyS0").expect("no control characters");
    let acpi = AcpiConfig { apic_ids: &[0], ..Default::default() };
    let parts = Boot {
        kernel: image,
        protocol,
        initrd: Some(&initrd),
        cmdline: &cmdline,
        acpi: Some(&acpi),
        reserved: &[],
    };
    match setup(&*ram.view().memory(), layout, &parts) {
        Ok(entry) => {
            let initrd = entry.initrd.clone().expect("there is an initrd");
            assert!(initrd.start >= map::HIGH_MEMORY && initrd.end <= layout.low_ram_end(), "{initrd:x?}");
            assert!(initrd.end <= entry.kernel.start || initrd.start >= entry.kernel.end, "{entry:x?}");
            assert!(entry.kernel.contains(&entry.rip));
            assert_written(ram, &[LOW.as_slice(), &[entry.kernel.clone(), initrd]].concat());
            format!("{entry:?}")
        }
        Err(error) => {
            check_error(&error.to_string());
            assert_written(ram, &[LOW.as_slice(), &[HIGH]].concat());
            error.to_string()
        }
    }
}

/// Every page that was written to since the last call is in one of `allowed`.
fn assert_written(ram: &GuestRam, allowed: &[Range<u64>]) {
    for dirty in ram.take_dirty() {
        for (word, bits) in dirty.bitmap.iter().enumerate() {
            for bit in (0..64).filter(|bit| bits >> bit & 1 == 1) {
                let page = dirty.base + (word as u64 * 64 + bit) * PAGE;
                let inside = allowed.iter().any(|r| page < r.end && r.start < page + PAGE);
                assert!(inside, "wrote to page {page:#x}, not in {allowed:x?}");
            }
        }
    }
}

fn check_error(message: &str) {
    assert!(!message.contains('\n') && !message.is_empty() && message.len() < 400, "{message:?}");
}

/// Applies changes: each is a place, a width of 1, 2, 4 or 8 bytes and a value, or a cut at the place.
fn changed(mut image: Vec<u8>, input: &mut Input<'_>) -> Vec<u8> {
    while !input.is_empty() {
        let (operation, place) = (input.u8(), usize::from(input.u16()));
        let value = input.u64().to_le_bytes();
        let place = place % (image.len() + 1);
        if operation & 0x80 != 0 {
            image.truncate(place);
            continue;
        }
        let width = 1 << (operation & 3);
        image.iter_mut().skip(place).zip(&value[..width]).for_each(|(to, from)| *to = *from);
    }
    image
}
