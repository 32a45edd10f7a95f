use crate::error::SetupError;
use crate::{AcpiConfig, AcpiTables, BootParams, CommandLine, Initrd, KernelImage, MemoryMap, Protocol, map};
use drystone_memory::Layout;
use std::ops::Range;
use vm_memory::{GuestAddress, GuestMemoryBackend};

/// All that a guest is booted from.
#[derive(Clone, Copy)]
pub struct Boot<'a> {
    /// The kernel.
    pub kernel: &'a KernelImage,
    /// How the kernel is entered; `None` leaves it to what the image is (see [`KernelImage::protocol`]).
    pub protocol: Option<Protocol>,
    /// The initial RAM disk, if there is one.
    pub initrd: Option<&'a Initrd>,
    /// The command line.
    pub cmdline: &'a CommandLine,
    /// The machine as the ACPI tables describe it. Without them stock kernels find neither CPUs beyond the first nor
    /// interrupt controllers: they ignore the older MP tables.
    pub acpi: Option<&'a AcpiConfig<'a>>,
    /// Ranges of guest-physical addresses, in RAM or not, that the guest must not use as RAM and that nothing is
    /// loaded into.
    pub reserved: &'a [Range<u64>],
}

/// Where and with what the first vCPU starts, interrupts off:
///
/// - [`Protocol::Linux`]: in 64-bit mode with paging on and the first 4 GiB mapped one to one, flat segments at selectors
///   0x10 (code) and 0x18 (data), `boot_params` in RSI (kernel document arch/x86/boot, "64-bit boot protocol").
/// - [`Protocol::Pvh`]: in 32-bit protected mode with paging off, flat segments, `boot_params` in EBX (Xen's document
///   misc/pvh).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// How the kernel is entered.
    pub protocol: Protocol,
    /// The first instruction.
    pub rip: u64,
    /// The address of the boot parameters, or of PVH's start info.
    pub boot_params: u64,
    /// What the kernel occupies.
    pub kernel: Range<u64>,
    /// What the initrd occupies.
    pub initrd: Option<Range<u64>>,
    /// Where the ACPI root pointer (RSDP) is.
    pub rsdp: Option<u64>,
}

/// Puts everything into `memory`, whose RAM is laid out as `layout` says. Call it again after a reset: files are
/// read again, and the result is the same as long as they are. RAM that is not written here is expected to read as zeros.
///
/// # Errors
/// [`SetupError`], naming the part that failed. What does not depend on the files' content is checked before
/// anything is written; guest memory may hold part of the rest.
pub fn setup<M: GuestMemoryBackend>(
    memory: &M,
    layout: &Layout,
    boot: &Boot<'_>,
) -> Result<Entry, SetupError> {
    let ram = layout.low_ram_end();
    let low = map::HIGH_MEMORY as usize;
    if ram <= map::HIGH_MEMORY || !GuestMemoryBackend::check_range(memory, GuestAddress(0), low) {
        return Err(SetupError::Memory { ram });
    }
    boot.kernel.protocol(boot.protocol)?;
    let memory_map = MemoryMap::new(layout, boot.reserved)?;
    let cmdline = boot.cmdline.render(boot.kernel.cmdline_max())?;
    let tables = boot.acpi.map(AcpiTables::build).transpose()?;

    let kernel = boot.kernel.load(memory, layout)?;
    // The file may have been changed since it was opened, and its entry points and limits with it.
    let (protocol, rip) = kernel.entry(boot.protocol)?;
    boot.cmdline.render(kernel.cmdline_max())?;
    let initrd = match boot.initrd {
        Some(initrd) => Some(initrd.load(memory, layout, &kernel, boot.reserved)?),
        None => None,
    };
    let rsdp = tables.map(|tables| tables.write(memory)).transpose()?;
    let params =
        BootParams { kernel: &kernel, cmdline: &cmdline, initrd: initrd.clone(), map: &memory_map, rsdp };
    params.write(memory, protocol)?;
    Ok(Entry { protocol, rip, boot_params: map::BOOT_PARAMS, kernel: kernel.range, initrd, rsdp })
}

#[cfg(test)]
mod tests;
