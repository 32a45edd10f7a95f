//! What only privilege level 0 may do, through the calls in `entry.s`.

use core::arch::asm;

const SERVICES: u64 = 0x5e41_0000;

/// One call: number, then RDI, RDX and RCX as the service wants them. Returns EAX and EDX.
fn call(number: u64, rdi: u64, edx: u32, ecx: u32) -> (u32, u32) {
    let (eax, edx_out): (u64, u64);
    // SAFETY: UD2 with these numbers in RAX goes to `service` in entry.s, which changes no register but those named
    // here, uses a stack of its own, and touches memory only as each caller says.
    unsafe {
        asm!("ud2", inout("rax") SERVICES + number => eax, inout("rdx") u64::from(edx) => edx_out,
            inout("rcx") u64::from(ecx) => _, inout("rdi") rdi => _);
    }
    (eax as u32, edx_out as u32)
}

/// A byte from an I/O port.
pub fn read_port(port: u16) -> u8 {
    call(0, 0, port.into(), 0).0 as u8
}

/// A byte to an I/O port.
pub fn write_port(port: u16, value: u8) {
    call(1, value.into(), port.into(), 0);
}

/// EAX, EBX, ECX and EDX of a leaf.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let (eax, ebx, ecx, edx): (u64, u64, u64, u64);
    // SAFETY: as in `call`. LLVM keeps RBX for itself, so the result is swapped out of it.
    unsafe {
        asm!("mov {saved}, rbx", "ud2", "xchg {saved}, rbx", saved = out(reg) ebx, inout("rax") SERVICES + 2 => eax,
            inout("rcx") u64::from(subleaf) => ecx, out("rdx") edx, inout("rdi") u64::from(leaf) => _);
    }
    [eax, ebx, ecx, edx].map(|r| r as u32)
}

/// A model-specific register that exists.
#[allow(dead_code)] // the counterpart of `write_msr`
pub fn read_msr(index: u32) -> u64 {
    let (low, high) = call(3, 0, 0, index);
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register that exists.
///
/// # Safety
/// What it makes the processor or the hypervisor do must be sound: some name memory that is then written to.
pub unsafe fn write_msr(index: u32, value: u64) {
    call(4, value & 0xffff_ffff, (value >> 32) as u32, index);
}

/// The time-stamp counter as a kernel reads it.
pub fn time_stamp() -> u64 {
    let (low, high) = call(5, 0, 0, 0);
    u64::from(high) << 32 | u64::from(low)
}

/// Sleeps until an interrupt. `end_of_interrupt` is the local APIC's register for its end.
///
/// # Safety
/// `end_of_interrupt` must be such a register: zero is written there.
pub unsafe fn wait(end_of_interrupt: u64) {
    call(6, end_of_interrupt, 0, 0);
}

/// Where [`map_window`] maps.
pub const WINDOW: u64 = 4 << 30;
/// How much it maps.
pub const WINDOW_LEN: u64 = 2 << 20;

/// Maps [`WINDOW_LEN`] bytes of physical addresses from `base`, a multiple of that, to [`WINDOW`].
///
/// # Safety
/// Nothing may hold a reference into what was mapped there before.
pub unsafe fn map_window(base: u64) {
    call(7, base, 0, 0);
}

/// Ends in a triple fault.
pub fn crash() -> ! {
    call(u64::from(u16::MAX), 0, 0, 0);
    // It does not come back.
    loop {
        core::hint::spin_loop();
    }
}
