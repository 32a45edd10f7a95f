//! PVH's start info (Xen's public/arch-x86/hvm/start_info.h), version 1, which has a memory map.

use super::{BootParams, number};
use crate::error::BootParamsError;
use crate::{MemoryMap, map};
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams as RawParams};
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{GuestAddress, GuestMemoryBackend};

/// "xEn3", with the highest bit of the E set.
const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
/// The module list, of at most one module: the initrd.
const MODULES: u64 = map::BOOT_PARAMS + size_of::<hvm_start_info>() as u64;
/// The memory map.
const MEMORY_MAP: u64 = MODULES + size_of::<hvm_modlist_entry>() as u64;
const _: () = assert!(
    MEMORY_MAP + (MemoryMap::MAX_ENTRIES * size_of::<hvm_memmap_table_entry>()) as u64
        <= map::BOOT_PARAMS + map::BOOT_PARAMS_LEN
);

/// Writes the start info to [`map::BOOT_PARAMS`], and behind it, in the same page, what it points to.
pub(super) fn write<M: GuestMemoryBackend>(
    given: &BootParams<'_>,
    memory: &M,
) -> Result<(), BootParamsError> {
    let entries: Vec<_> = given
        .map
        .entries()
        .iter()
        .map(|e| hvm_memmap_table_entry {
            addr: e.range.start,
            size: e.range.end - e.range.start,
            type_: number(e.kind),
            reserved: 0,
        })
        .collect();
    let modules: Vec<_> = given
        .initrd
        .iter()
        .map(|initrd| hvm_modlist_entry {
            paddr: initrd.start,
            size: initrd.end.saturating_sub(initrd.start),
            ..Default::default()
        })
        .collect();
    let info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        flags: 0,
        nr_modules: modules.len() as u32,
        modlist_paddr: if modules.is_empty() { 0 } else { MODULES },
        cmdline_paddr: map::CMDLINE,
        rsdp_paddr: given.rsdp.unwrap_or(0),
        memmap_paddr: MEMORY_MAP,
        memmap_entries: entries.len() as u32,
        reserved: 0,
    };
    let mut raw = RawParams::new(&info, GuestAddress(map::BOOT_PARAMS));
    raw.set_sections(&entries, GuestAddress(MEMORY_MAP));
    if !modules.is_empty() {
        raw.set_modules(&modules, GuestAddress(MODULES));
    }
    PvhBootConfigurator::write_bootparams(&raw, memory)
        .map_err(|e| BootParamsError::Write { what: "PVH's start info", cause: e.to_string() })
}
