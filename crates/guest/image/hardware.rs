//! Physical memory as it is: the first 4 GiB are mapped one to one, the rest through a window.

use crate::physical::Physical;
use crate::sys;

/// The machine's own memory. There is one thread, so moving the window disturbs nobody.
pub struct Memory;

impl Memory {
    /// A pointer to `at`, and how many bytes can be reached from there.
    fn pointer(at: u64) -> (*mut u8, usize) {
        if at < sys::WINDOW {
            return (at as *mut u8, (sys::WINDOW - at) as usize);
        }
        let offset = at % sys::WINDOW_LEN;
        // SAFETY: only this module uses the window, and only by raw pointers that do not outlive a call.
        unsafe { sys::map_window(at - offset) };
        ((sys::WINDOW + offset) as *mut u8, (sys::WINDOW_LEN - offset) as usize)
    }

    /// Writes a register of 8 bits.
    pub fn write_8(&self, at: u64, value: u8) {
        // SAFETY: this program owns the machine; callers name registers that ACPI describes.
        unsafe { Self::pointer(at).0.write_volatile(value) }
    }

    /// Writes a register of 32 bits, aligned.
    pub fn write_32(&self, at: u64, value: u32) {
        // SAFETY: as above; the local APIC and the I/O APIC.
        unsafe { Self::pointer(at).0.cast::<u32>().write_volatile(value) }
    }

    /// Whether the 8 bytes at `at` keep what is written to them; they are put back.
    pub fn holds(&self, at: u64) -> bool {
        let word = Self::pointer(at).0.cast::<u64>();
        [0x5555_aaaa_1234_fedc_u64, !0x5555_aaaa_1234_fedc].iter().all(|pattern| {
            // SAFETY: a caller names RAM that this program does not use, by an address that is a multiple of 8.
            unsafe {
                let before = word.read_volatile();
                word.write_volatile(*pattern);
                let kept = word.read_volatile() == *pattern;
                word.write_volatile(before);
                kept
            }
        })
    }
}

impl Physical for Memory {
    fn read(&self, mut at: u64, mut out: &mut [u8]) {
        while !out.is_empty() {
            let (pointer, reach) = Self::pointer(at);
            let (now, rest) = out.split_at_mut(reach.min(out.len()));
            for (i, byte) in now.iter_mut().enumerate() {
                // SAFETY: mapped, as all physical addresses are; what has no memory reads as ones.
                *byte = unsafe { pointer.add(i).read_volatile() };
            }
            at += now.len() as u64;
            out = rest;
        }
    }

    fn register(&self, at: u64) -> u32 {
        // SAFETY: mapped, and aligned by the trait's contract.
        unsafe { Self::pointer(at).0.cast::<u32>().read_volatile() }
    }
}
