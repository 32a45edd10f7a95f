mod start_info;
mod zero_page;

use crate::error::BootParamsError;
use crate::{LoadedKernel, MapKind, MemoryMap, Protocol, map};
use std::ops::Range;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// What the kernel is told of the machine, whatever the protocol: for Linux's own it goes into the boot parameters,
/// the "zero page" (kernel documents arch/x86/boot and arch/x86/zero-page), for PVH into `hvm_start_info`.
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
    /// Writes the command line to [`map::CMDLINE`], and to [`map::BOOT_PARAMS`] the zero page or PVH's start info.
    ///
    /// # Errors
    /// [`BootParamsError::Address`] for a command line longer than its place, [`BootParamsError::Overlap`] when the
    /// map reserves what the kernel or the initrd occupies, [`BootParamsError::Write`] when guest memory refuses.
    pub fn write<M: GuestMemoryBackend>(
        &self,
        memory: &M,
        protocol: Protocol,
    ) -> Result<(), BootParamsError> {
        self.map.check_free(&self.kernel.range, "kernel")?;
        if let Some(initrd) = &self.initrd {
            self.map.check_free(initrd, "initrd")?;
        }
        if self.cmdline.len() as u64 >= map::CMDLINE_SPACE {
            return Err(BootParamsError::Address { what: "end of the command line", address: map::CMDLINE });
        }
        let line = [self.cmdline.as_bytes(), &[0]].concat();
        memory
            .write_slice(&line, GuestAddress(map::CMDLINE))
            .map_err(|e| BootParamsError::Write { what: "the command line", cause: e.to_string() })?;
        match protocol {
            Protocol::Linux => zero_page::write(self, memory),
            Protocol::Pvh => start_info::write(self, memory),
        }
    }
}

/// The number of a kind of memory, the same in e820 and in PVH's memory map.
fn number(kind: MapKind) -> u32 {
    match kind {
        MapKind::Ram => 1,
        MapKind::Reserved => 2,
    }
}

#[cfg(test)]
mod tests;
