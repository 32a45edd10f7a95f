//! A small guest for x86-64: an ELF image with a PVH entry and nothing that it needs beside it.
#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

/// The image, a 64-bit ELF with a PVH note, to be loaded from 1 MiB on. It takes less than 256 KiB of memory.
///
/// Empty in a build for another processor, whose toolchain cannot make it.
pub static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest.elf"));

// The guest itself is compiled by the build script. These lines let rustfmt see all of it, and tests and clippy what
// needs no hardware.
#[cfg(any())]
#[path = "../image/main.rs"]
mod image;

#[cfg(test)]
#[macro_use]
#[path = "../image/say.rs"]
mod say;
#[cfg(test)]
#[path = "../image/acpi.rs"]
mod acpi;
#[cfg(test)]
#[path = "../image/bytes.rs"]
mod bytes;
#[cfg(test)]
#[path = "../image/cpu.rs"]
mod cpu;
#[cfg(test)]
#[path = "../image/line.rs"]
mod line;
#[cfg(test)]
#[path = "../image/memory.rs"]
mod memory;
#[cfg(test)]
#[path = "../image/pci.rs"]
mod pci;
#[cfg(test)]
#[path = "../image/physical.rs"]
mod physical;
#[cfg(test)]
#[path = "../image/rtc.rs"]
mod rtc;
#[cfg(test)]
#[path = "../image/start_info.rs"]
mod start_info;

#[cfg(test)]
mod tests;
