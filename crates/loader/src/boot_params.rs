use crate::error::BootParamsError;
use crate::{LoadedKernel, MapKind, MemoryMap, map};
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams as RawParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use std::ops::Range;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// A boot loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;
const LOADED_HIGH: u8 = 1;
/// "Normal" in the boot protocol: whatever mode there is. There is no display.
const VID_MODE_NORMAL: u16 = 0xffff;

/// What goes into the boot parameters, the "zero page" (kernel documents arch/x86/boot and arch/x86/zero-page).
///
/// A bzImage's own setup header is passed on; what a boot loader has to fill in is filled in. The fields about the
/// screen stay zero: there is none, and the kernel is told so.
#[derive(Debug, Clone)]
pub struct BootParams<'a> {
    /// The kernel.
    pub kernel: &'a LoadedKernel,
    /// The command line, without a zero byte at the end.
    pub cmdline: &'a str,
    /// Where the initrd lies, if there is one.
    pub initrd: Option<Range<u64>>,
    /// The memory map.
    pub map: &'a MemoryMap,
    /// Where the ACPI tables' root pointer (RSDP) lies, if there is one. The kernel does not search for it then.
    pub rsdp: Option<u64>,
}

impl BootParams<'_> {
    /// Writes the command line to [`map::CMDLINE`] and the boot parameters to [`map::BOOT_PARAMS`].
    ///
    /// # Errors
    /// [`BootParamsError::Address`] for a command line longer than its place, [`BootParamsError::Overlap`] when the
    /// map reserves what the kernel or the initrd occupies, [`BootParamsError::Write`] when guest memory refuses.
    pub fn write<M: GuestMemoryBackend>(&self, memory: &M) -> Result<(), BootParamsError> {
        self.map.check_free(&self.kernel.range, "kernel")?;
        if let Some(initrd) = &self.initrd {
            self.map.check_free(initrd, "initrd")?;
        }
        if self.cmdline.len() as u64 >= map::CMDLINE_SPACE {
            return Err(BootParamsError::Address { what: "end of the command line", address: map::CMDLINE });
        }
        let line = [self.cmdline.as_bytes(), &[0]].concat();
        let write = |what| move |cause: String| BootParamsError::Write { what, cause };
        memory
            .write_slice(&line, GuestAddress(map::CMDLINE))
            .map_err(|e| write("the command line")(e.to_string()))?;
        let raw = RawParams::new(&self.zero_page(), GuestAddress(map::BOOT_PARAMS));
        LinuxBootConfigurator::write_bootparams(&raw, memory)
            .map_err(|e| write("the zero page")(e.to_string()))
    }

    fn zero_page(&self) -> boot_params {
        let mut params = boot_params { hdr: self.kernel.header, ..Default::default() };
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
        let initrd = self.initrd.clone().unwrap_or(0..0);
        (params.hdr.ramdisk_image, params.ext_ramdisk_image) = halves(initrd.start);
        (params.hdr.ramdisk_size, params.ext_ramdisk_size) = halves(initrd.end.saturating_sub(initrd.start));
        params.acpi_rsdp_addr = self.rsdp.unwrap_or(0);
        self.write_e820(&mut params);
        params
    }

    fn write_e820(&self, params: &mut boot_params) {
        let mut table = params.e820_table;
        let mut count = 0;
        for (slot, entry) in table.iter_mut().zip(self.map.entries()) {
            let r#type = match entry.kind {
                MapKind::Ram => 1,
                MapKind::Reserved => 2,
            };
            let size = entry.range.end - entry.range.start;
            *slot = boot_e820_entry { addr: entry.range.start, size, r#type };
            count += 1;
        }
        params.e820_table = table;
        params.e820_entries = count;
    }
}

/// The low and the high 32 bits, for a field and its extension.
fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}

#[cfg(test)]
mod tests;
