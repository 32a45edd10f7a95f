use crate::{AcpiError, CmdlineError, Protocol};
use std::io;

/// Why a kernel cannot be used. Every message begins with the image's name, which is its path if it was opened by one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The file cannot be opened or its beginning not read.
    #[error("kernel at {name}: cannot {attempt}: {cause}")]
    File {
        /// The image's name.
        name: String,
        /// What was tried.
        attempt: &'static str,
        /// What the host said.
        cause: io::Error,
    },
    /// Neither a bzImage nor an ELF for x86-64.
    #[error(
        "kernel at {name}: neither an x86 bzImage nor a 64-bit x86 ELF (vmlinux): it looks like {looks_like}"
    )]
    Format {
        /// The image's name.
        name: String,
        /// What its first bytes say, with an article.
        looks_like: String,
    },
    /// The file ends before what its header promises.
    #[error("kernel at {name}: truncated: its header promises {promised} bytes, the file has {found}")]
    Truncated {
        /// The image's name.
        name: String,
        /// Bytes that the header asks for.
        promised: u64,
        /// Bytes that the file has.
        found: u64,
    },
    /// The header contradicts itself.
    #[error("kernel at {name}: corrupt: {cause}")]
    Corrupt {
        /// The image's name.
        name: String,
        /// The contradiction.
        cause: String,
    },
    /// A kernel, but one that cannot be entered in 64-bit mode.
    #[error("kernel at {name}: not supported: {cause}")]
    Unsupported {
        /// The image's name.
        name: String,
        /// What it lacks.
        cause: String,
    },
    /// It cannot be entered as asked.
    #[error("kernel at {name}: cannot be started by the boot protocol {protocol}: {cause}")]
    Protocol {
        /// The image's name.
        name: String,
        /// What was asked for.
        protocol: Protocol,
        /// What it lacks.
        cause: &'static str,
    },
    /// Guest RAM is too small for it.
    #[error(
        "kernel at {name}: does not fit: it needs {start:#x}..{end:#x}, guest RAM below 4 GiB ends at {ram_end:#x}; \
         give the guest at least {} MiB", end.div_ceil(1 << 20)
    )]
    DoesNotFit {
        /// The image's name.
        name: String,
        /// First guest-physical address that it needs.
        start: u64,
        /// Where what it needs ends.
        end: u64,
        /// Where low RAM ends.
        ram_end: u64,
    },
    /// Copying into guest memory failed.
    #[error("kernel at {name}: cannot read into guest memory: {cause}")]
    Load {
        /// The image's name.
        name: String,
        /// What linux-loader or guest memory said.
        cause: String,
    },
}

/// Why an initrd cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitrdError {
    /// The file cannot be opened or measured.
    #[error("initrd at {name}: cannot {attempt}: {cause}")]
    File {
        /// The initrd's name.
        name: String,
        /// What was tried.
        attempt: &'static str,
        /// What the host said.
        cause: io::Error,
    },
    /// The file has no bytes.
    #[error("initrd at {name}: empty file")]
    Empty {
        /// The initrd's name.
        name: String,
    },
    /// There is no room next to the kernel.
    #[error(
        "initrd at {name}: does not fit: it has {len} bytes, the largest free range of guest RAM below {limit:#x} \
         has {room} (the kernel takes {kernel_start:#x}..{kernel_end:#x})"
    )]
    DoesNotFit {
        /// The initrd's name.
        name: String,
        /// Its size in bytes.
        len: u64,
        /// The largest free range in bytes, rounded down to pages.
        room: u64,
        /// It must end at or below this address.
        limit: u64,
        /// Where the kernel begins.
        kernel_start: u64,
        /// Where what the kernel needs ends.
        kernel_end: u64,
    },
    /// Copying into guest memory failed.
    #[error("initrd at {name}: cannot read into guest memory: {cause}")]
    Load {
        /// The initrd's name.
        name: String,
        /// What guest memory said.
        cause: String,
    },
}

/// Why the boot parameters cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BootParamsError {
    /// A reserved range is empty or backwards.
    #[error("memory map: the reserved range {start:#x}..{end:#x} is empty")]
    Range {
        /// Where it begins.
        start: u64,
        /// Where it ends.
        end: u64,
    },
    /// The zero page has no room for that many.
    #[error("memory map: {count} ranges, the boot parameters have room for {max}")]
    TooManyRanges {
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// A reserved range lies over something that is loaded.
    #[error("memory map: the reserved range {start:#x}..{end:#x} lies over the {what}")]
    Overlap {
        /// Where it begins.
        start: u64,
        /// Where it ends.
        end: u64,
        /// What it covers.
        what: &'static str,
    },
    /// A piece for below 4 GiB, or for the address fields, lies elsewhere.
    #[error("boot parameters: the {what} at {address:#x} is out of reach")]
    Address {
        /// What it is.
        what: &'static str,
        /// Where it was said to be.
        address: u64,
    },
    /// Guest memory refused.
    #[error("boot parameters: cannot write {what} to guest memory: {cause}")]
    Write {
        /// What was written.
        what: &'static str,
        /// What guest memory said.
        cause: String,
    },
}

/// Why a guest could not be set up: the first of its parts that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The initrd.
    #[error(transparent)]
    Initrd(#[from] InitrdError),
    /// The command line.
    #[error(transparent)]
    Cmdline(#[from] CmdlineError),
    /// The memory map or the boot parameters.
    #[error(transparent)]
    BootParams(#[from] BootParamsError),
    /// The ACPI tables.
    #[error(transparent)]
    Acpi(#[from] AcpiError),
    /// There is no RAM where Linux needs it at the very least.
    #[error(
        "guest memory of {ram} bytes: Linux needs RAM from 0 to beyond 1 MiB, and much more to do anything"
    )]
    Memory {
        /// Low RAM in bytes.
        ram: u64,
    },
}
