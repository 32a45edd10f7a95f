//! Puts a kernel into guest memory: bzImage, ELF, PVH, initrd, command line, boot parameters, ACPI.
//!
//! [`KernelImage`] and [`Initrd`] are files that were checked once and are loaded as often as the guest is reset.
//! [`setup`] does all of it in one call and says where a vCPU starts; the parts can be used alone: [`MemoryMap`] for
//! e820, [`BootParams`] for the zero page or PVH's start info, [`AcpiTables`] for ACPI. The addresses are in [`map`].
//!
//! Images are untrusted: nothing in one can make the loader panic, allocate without bound, or write outside guest
//! RAM or over the structures below 1 MiB.
#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

pub mod acpi;
mod boot_params;
mod bytes;
mod bzimage;
mod cmdline;
mod e820;
mod elf;
mod error;
mod image;
mod initrd;
pub mod map;
mod protocol;
mod setup;
mod sniff;
mod source;

pub use acpi::{AcpiConfig, AcpiError, AcpiTables};
pub use boot_params::BootParams;
pub use cmdline::{CmdlineError, CommandLine};
pub use e820::{MapEntry, MapKind, MemoryMap};
pub use error::{BootParamsError, InitrdError, KernelError, SetupError};
pub use image::{Format, KernelImage, LoadedKernel};
pub use initrd::Initrd;
pub use protocol::Protocol;
pub use setup::{Boot, Entry, setup};
