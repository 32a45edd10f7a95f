use super::{BootParams, number};
use crate::error::BootParamsError;
use crate::{MemoryMap, map};
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams as RawParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{GuestAddress, GuestMemoryBackend};

/// A boot loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;
const LOADED_HIGH: u8 = 1;
/// "Normal" in the boot protocol: whatever mode there is. There is no display.
const VID_MODE_NORMAL: u16 = 0xffff;

/// Writes the zero page to [`map::BOOT_PARAMS`].
pub(super) fn write<M: GuestMemoryBackend>(
    given: &BootParams<'_>,
    memory: &M,
) -> Result<(), BootParamsError> {
    let raw = RawParams::new(&zero_page(given), GuestAddress(map::BOOT_PARAMS));
    LinuxBootConfigurator::write_bootparams(&raw, memory)
        .map_err(|e| BootParamsError::Write { what: "the zero page", cause: e.to_string() })
}

fn zero_page(given: &BootParams<'_>) -> boot_params {
    let mut params = boot_params { hdr: given.kernel.header, ..Default::default() };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.ext_loader_type = 0;
    params.hdr.ext_loader_ver = 0;
    params.hdr.loadflags = LOADED_HIGH;
    params.hdr.vid_mode = VID_MODE_NORMAL;
    // Fields for the boot loader that an image might have set: the kernel would follow them.
    params.hdr.heap_end_ptr = 0;
    params.hdr.setup_data = 0;
    params.hdr.hardware_subarch = 0;
    params.hdr.hardware_subarch_data = 0;
    (params.hdr.cmd_line_ptr, params.ext_cmd_line_ptr) = halves(map::CMDLINE);
    let initrd = given.initrd.clone().unwrap_or(0..0);
    (params.hdr.ramdisk_image, params.ext_ramdisk_image) = halves(initrd.start);
    (params.hdr.ramdisk_size, params.ext_ramdisk_size) = halves(initrd.end.saturating_sub(initrd.start));
    params.acpi_rsdp_addr = given.rsdp.unwrap_or(0);
    write_e820(given.map, &mut params);
    params
}

fn write_e820(map: &MemoryMap, params: &mut boot_params) {
    let mut table = params.e820_table;
    let mut count = 0;
    for (slot, entry) in table.iter_mut().zip(map.entries()) {
        let size = entry.range.end - entry.range.start;
        *slot = boot_e820_entry { addr: entry.range.start, size, r#type: number(entry.kind) };
        count += 1;
    }
    params.e820_table = table;
    params.e820_entries = count;
}

/// The low and the high 32 bits, for a field and its extension.
pub(super) fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}
