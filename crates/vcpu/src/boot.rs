//! Where the boot processor begins: the Linux 64-bit boot protocol, or PVH.
//!
//! Source of the first: the kernel's `Documentation/arch/x86/boot.rst`, "64-bit Boot Protocol": long mode with paging, an identity map
//! over kernel, boot parameters and command line, a GDT with flat `__BOOT_CS` (0x10) and `__BOOT_DS` (0x18), interrupts
//! off, RSI holding the address of the boot parameters. Source of the second: Xen's document `misc/pvh`: 32-bit protected
//! mode without paging, flat segments, interrupts off, EBX holding the address of `hvm_start_info`.
//!
//! [`write_tables`] and, for the first protocol, [`write_page_tables`] put the tables into guest memory, each time a kernel is
//! loaded; [`LinuxBoot`] and [`PvhBoot`] set the registers. The addresses in [`map`] are an agreement with whoever loads the kernel.

mod pvh;

pub use pvh::{PvhBoot, protected_mode_sregs, pvh_regs};

use crate::BootState;
use drystone_hypervisor::{DescriptorTable, Error, Msr, Regs, Segment, Sregs, Vcpu};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryError};

/// Guest-physical addresses used for booting. The kernel itself lies from 1 MiB on.
pub mod map {
    /// The GDT, [`GDT_LEN`] bytes.
    pub const GDT: u64 = 0x500;
    /// The GDT's length in bytes: eight descriptors of 8.
    pub const GDT_LEN: u16 = 64;
    /// The boot parameters ("zero page"), or PVH's start info with what it points to, 4 KiB.
    pub const ZERO_PAGE: u64 = 0x7000;
    /// The first stack pointer; the stack grows down from here.
    pub const STACK: u64 = 0x8ff0;
    /// The page-map level-4 table, 4 KiB.
    pub const PML4: u64 = 0x9000;
    /// The page-directory-pointer table, 4 KiB.
    pub const PDPT: u64 = 0xa000;
    /// Four page directories of 4 KiB, which end at 0xf000.
    pub const PAGE_DIRECTORIES: u64 = 0xb000;
    /// The kernel's command line.
    pub const COMMAND_LINE: u64 = 0x2_0000;
    /// ACPI tables, up to 1 MiB; the kernel looks for the root pointer here.
    pub const ACPI: u64 = 0xe_0000;
    /// The code at the reset vector in real mode, F000:FFF0, 16 bytes, and 8 before it.
    pub const RESET_VECTOR: u64 = 0xf_fff0;
    /// Where a kernel is loaded at the lowest.
    pub const KERNEL: u64 = 0x10_0000;
}

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;
const ENTRIES: u64 = 512;

/// Why the boot tables could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// Guest memory is missing there.
    #[error("boot {what} at {addr:#x}: cannot write to guest memory: {cause}")]
    Memory {
        /// What was to be written.
        what: &'static str,
        /// Where.
        addr: u64,
        /// What the memory said.
        cause: GuestMemoryError,
    },
}

/// What a guest finds that jumps to the reset vector, as to a PC's firmware: a reset by the keyboard controller, and
/// where there is none a triple fault. In zeros it would spin for ever.
///
/// Linux does so by itself in a machine with hardware-reduced ACPI and without EFI. There it takes EFI's reset for the only
/// one (`efi_reboot_required` in `drivers/firmware/efi/reboot.c` makes it choose `BOOT_EFI`), finds no EFI, and falls back
/// to `BOOT_BIOS`: back to real mode and to F000:FFF0 (`native_machine_emergency_restart` in `arch/x86/kernel/reboot.c`).
/// With `reboot=a` on its command line it uses the ACPI reset register, with `reboot=k` the keyboard controller.
#[rustfmt::skip]
const RESET_CODE: [u8; 20] = [
    0, 0, 0, 0, 0, 0, 0, 0,             // at FFE8: an IDT without entries
    0xb0, 0xfe,                         // mov al, 0xfe
    0xe6, 0x64,                         // out 0x64, al
    0x2e, 0x0f, 0x01, 0x1e, 0xe8, 0xff, // lidt cs:[0xffe8]
    0x0f, 0x0b,                         // ud2
];

/// Writes what a guest needs by either protocol: the GDT, which must stay until the kernel has its own, and the code at the reset
/// vector, at the addresses of [`map`].
///
/// # Errors
/// [`BootError::Memory`] when there is no RAM at those addresses.
pub fn write_tables<M: GuestMemory + ?Sized>(memory: &M) -> Result<(), BootError> {
    let tss = descriptor(&TSS);
    // A descriptor of a 64-bit TSS takes two places.
    let gdt =
        [0, 0, descriptor(&CODE), descriptor(&DATA), tss, 0, descriptor(&pvh::CODE), descriptor(&pvh::TSS)];
    write_bytes(memory, "GDT", map::GDT, gdt.map(u64::to_le_bytes).as_flattened())?;
    write_bytes(memory, "reset vector", map::RESET_VECTOR - 8, &RESET_CODE)
}

/// Writes the page tables that a guest needs that begins in long mode ([`LinuxBoot`]): they map the first 4 GiB, in pages of
/// 2 MiB, to themselves, lie at the addresses of [`map`], and must stay until the kernel has its own.
///
/// # Errors
/// [`BootError::Memory`] when there is no RAM at those addresses.
pub fn write_page_tables<M: GuestMemory + ?Sized>(memory: &M) -> Result<(), BootError> {
    let mut tables = PageTables { next: map::PML4, memory };
    tables.write([map::PDPT | PRESENT_WRITABLE])?;
    tables.write((0..4).map(|i| (map::PAGE_DIRECTORIES + (i << 12)) | PRESENT_WRITABLE))?;
    for gib in 0..4 {
        tables
            .write((gib * ENTRIES..(gib + 1) * ENTRIES).map(|i| (i << 21) | PRESENT_WRITABLE | LARGE_PAGE))?;
    }
    Ok(())
}

/// Writes one table behind the other.
struct PageTables<'a, M: ?Sized> {
    next: u64,
    memory: &'a M,
}

impl<M: GuestMemory + ?Sized> PageTables<'_, M> {
    /// The next table; entries that are not given are not present.
    fn write(&mut self, entries: impl IntoIterator<Item = u64>) -> Result<(), BootError> {
        let mut table = [0; 8 * ENTRIES as usize];
        for (to, entry) in table.chunks_exact_mut(8).zip(entries) {
            to.copy_from_slice(&entry.to_le_bytes());
        }
        write_bytes(self.memory, "page table", self.next, &table)?;
        self.next += table.len() as u64;
        Ok(())
    }
}

fn write_bytes<M: GuestMemory + ?Sized>(
    memory: &M,
    what: &'static str,
    addr: u64,
    bytes: &[u8],
) -> Result<(), BootError> {
    memory.write_slice(bytes, GuestAddress(addr)).map_err(|cause| BootError::Memory { what, addr, cause })
}

const FLAT: Segment = Segment {
    base: 0,
    limit: u32::MAX,
    selector: 0,
    kind: 0,
    present: true,
    dpl: 0,
    db: false,
    s: true,
    l: false,
    g: true,
    avl: false,
    unusable: false,
};
/// `__BOOT_CS`: 64-bit code, execute and read, accessed.
const CODE: Segment = Segment { selector: 0x10, kind: 0xb, l: true, ..FLAT };
/// `__BOOT_DS`: data, read and write, accessed.
const DATA: Segment = Segment { selector: 0x18, kind: 0x3, db: true, ..FLAT };
/// A busy 64-bit TSS: processors with VMX do not enter a guest without one (Intel SDM volume 3, 27.3.1.2).
const TSS: Segment = Segment { selector: 0x20, kind: 0xb, s: false, g: false, limit: 0xffff, ..FLAT };

/// The segment as it stands in a descriptor table (Intel SDM volume 3, figure 3-8).
fn descriptor(s: &Segment) -> u64 {
    let limit = u64::from(if s.g { s.limit >> 12 } else { s.limit });
    let access = u64::from(s.kind) | flag(s.s, 4) | u64::from(s.dpl) << 5 | flag(s.present, 7);
    let flags = flag(s.avl, 0) | flag(s.l, 1) | flag(s.db, 2) | flag(s.g, 3);
    (limit & 0xffff)
        | (s.base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (s.base >> 24 & 0xff) << 56
}

fn flag(set: bool, bit: u32) -> u64 {
    u64::from(set) << bit
}

/// General registers at the kernel's 64-bit entry point `entry`: RSI holds `zero_page`, the stack is at
/// [`map::STACK`], interrupts are off.
pub fn linux_regs(entry: u64, zero_page: u64) -> Regs {
    const ALWAYS_SET: u64 = 1 << 1;
    Regs {
        rip: entry,
        rsi: zero_page,
        rsp: map::STACK,
        rbp: map::STACK,
        rflags: ALWAYS_SET,
        ..Regs::default()
    }
}

/// Long mode on the tables of [`write_tables`] and [`write_page_tables`]. `reset` are the registers of a vCPU as it was made; only the local
/// APIC's base address is taken over.
pub fn long_mode_sregs(reset: &Sregs) -> Sregs {
    const CR0_PE: u64 = 1;
    const CR0_ET: u64 = 1 << 4;
    const CR0_PG: u64 = 1 << 31;
    const CR4_PAE: u64 = 1 << 5;
    const EFER_LME: u64 = 1 << 8;
    const EFER_LMA: u64 = 1 << 10;
    Sregs {
        cs: CODE,
        ds: DATA,
        es: DATA,
        fs: DATA,
        gs: DATA,
        ss: DATA,
        tr: TSS,
        ldt: Segment { unusable: true, ..Segment::default() },
        gdt: DescriptorTable { base: map::GDT, limit: map::GDT_LEN - 1 },
        idt: DescriptorTable::default(),
        cr0: CR0_PE | CR0_ET | CR0_PG,
        cr2: 0,
        cr3: map::PML4,
        cr4: CR4_PAE,
        cr8: 0,
        efer: EFER_LME | EFER_LMA,
        apic_base: reset.apic_base,
    }
}

/// Model-specific registers as firmware leaves them on **every** processor: all memory is write-back where no page
/// table says otherwise, and fast string operations are on. The PAT keeps its reset value.
///
/// A kernel that finds different memory types on two processors says so in its log.
pub fn firmware_msrs() -> [Msr; 2] {
    /// IA32_MTRR_DEF_TYPE: enabled (bit 11), type 6 (Intel SDM volume 3, 12.11.2.1).
    const MTRR_DEF_TYPE: Msr = Msr { index: 0x2ff, value: 1 << 11 | 6 };
    /// IA32_MISC_ENABLE: fast strings (bit 0).
    const MISC_ENABLE: Msr = Msr { index: 0x1a0, value: 1 };
    [MTRR_DEF_TYPE, MISC_ENABLE]
}

/// Starts a Linux kernel at its 64-bit entry point on vCPU 0, the boot processor. The others get firmware's
/// model-specific registers and nothing else: they wait for the start-up interrupt that the kernel sends them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinuxBoot {
    /// Guest-physical address of the entry point: for a bzImage 0x200 past where it was loaded.
    pub entry: u64,
    /// Guest-physical address of the boot parameters.
    pub zero_page: u64,
}

impl LinuxBoot {
    /// With the boot parameters at [`map::ZERO_PAGE`].
    pub fn new(entry: u64) -> Self {
        Self { entry, zero_page: map::ZERO_PAGE }
    }
}

impl BootState for LinuxBoot {
    fn apply(&self, vcpu: &mut dyn Vcpu) -> Result<(), Error> {
        vcpu.set_msrs(&firmware_msrs())?;
        if vcpu.id() != 0 {
            return Ok(());
        }
        let sregs = long_mode_sregs(&vcpu.sregs()?);
        vcpu.set_sregs(&sregs)?;
        vcpu.set_regs(&linux_regs(self.entry, self.zero_page))
    }
}

#[cfg(test)]
mod tests;
