//! The low-memory map: where everything that is not the kernel or the initrd lies in guest-physical memory.
//!
//! The first four are written by whoever sets up the vCPU's registers (`drystone-vcpu` in this workspace); they are
//! named here so that one module shows that nothing overlaps.

use std::ops::Range;

/// The global descriptor table.
pub const GDT: u64 = 0x500;
/// The boot parameters ("zero page"), to which RSI points at the entry, or PVH's start info with what it points to, to
/// which EBX does.
pub const BOOT_PARAMS: u64 = 0x7000;
/// Bytes set aside for either.
pub const BOOT_PARAMS_LEN: u64 = 0x1000;
/// The boot stack grows down from here.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Page tables that map the first 4 GiB one to one.
pub const PAGE_TABLES: Range<u64> = 0x9000..0xf000;
/// The command line, ended by a zero byte.
pub const CMDLINE: u64 = 0x2_0000;
/// Bytes set aside for the command line and its zero byte, whatever limit a kernel's header claims.
pub const CMDLINE_SPACE: u64 = 0x1_0000;
/// Where conventional memory ends for the guest; what follows up to 1 MiB is reserved in e820.
pub const CONVENTIONAL_END: u64 = 0x9_fc00;
/// The identifier of the virtual machine's generation, in reserved memory; not where Linux looks for option ROMs, at every 2 KiB.
pub const GENERATION_ID: u64 = 0xd_f020;
/// The ACPI tables; the RSDP is at the start, where the BIOS read-only memory of a PC is searched for it as well.
/// The page behind them is that of the reset vector, F000:FFF0, where a VMM may have code.
pub const ACPI: Range<u64> = 0xe_0000..0xf_f000;
/// The lowest address of kernel and initrd: 1 MiB.
pub const HIGH_MEMORY: u64 = 0x10_0000;
