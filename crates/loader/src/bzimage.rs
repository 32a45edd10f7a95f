//! The bzImage's setup header, checked (kernel document arch/x86/boot: "The Linux/x86 Boot Protocol").

use crate::bytes::u32_at;
use crate::error::KernelError;
use crate::image::Plan;
use crate::map::HIGH_MEMORY;
use crate::protocol::Entries;
use linux_loader::loader::bootparam::{XLF_KERNEL_64, setup_header};
use vm_memory::ByteValued;

/// Where the setup header begins in the file and in the boot parameters.
const HEADER: usize = 0x1f1;
/// The header ends here plus the byte before: the target of a two-byte jump instruction at 0x200.
const JUMP_BASE: usize = 0x202;
/// The header must reach beyond `init_size`.
const HEADER_END_MIN: usize = 0x264;
/// "HdrS"
const MAGIC: u32 = 0x5372_6448;
/// The first boot protocol version with a 64-bit entry point (`xloadflags`), Linux 3.8.
const VERSION_MIN: u16 = 0x020c;
/// The 64-bit entry point, relative to where the kernel is loaded.
const ENTRY_64: u64 = 0x200;
const LOADED_HIGH: u8 = 1;
const SECTOR: u64 = 512;

pub(crate) fn recognises(head: &[u8]) -> bool {
    u32_at(head, JUMP_BASE) == Some(MAGIC)
}

/// Checks the header in `head` (the first KiB) of a file of `len` bytes, and says where it goes.
pub(crate) fn plan(name: &str, head: &[u8], len: u64) -> Result<Plan, KernelError> {
    let header = read_header(name, head, len)?;
    check_protocol(name, &header)?;
    let sectors = if header.setup_sects == 0 { 4 } else { header.setup_sects };
    let setup_size = (u64::from(sectors) + 1) * SECTOR;
    let kernel_len = check_sizes(name, &header, setup_size, len)?;
    place(name, header, kernel_len)
}

/// The header's own bytes; fields that an older header does not have stay zero.
fn read_header(name: &str, head: &[u8], len: u64) -> Result<setup_header, KernelError> {
    let jump = head.get(JUMP_BASE - 1).copied().unwrap_or(0);
    let end = JUMP_BASE + usize::from(jump);
    if len < end as u64 {
        return Err(truncated(name, end as u64, len));
    }
    if end < HEADER_END_MIN {
        return Err(corrupt(
            name,
            format!("its setup header ends at {end:#x}, before the size of the kernel"),
        ));
    }
    let mut header = setup_header::default();
    let from = head.get(HEADER..end).unwrap_or_default();
    header.as_mut_slice().iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    Ok(header)
}

fn check_protocol(name: &str, header: &setup_header) -> Result<(), KernelError> {
    let unsupported = |cause| Err(KernelError::Unsupported { name: name.into(), cause });
    let version = header.version;
    if version < VERSION_MIN {
        let (major, minor) = (version >> 8, version & 0xff);
        return unsupported(format!(
            "boot protocol {major}.{minor:02} has no 64-bit entry point (2.12 of Linux 3.8 does)"
        ));
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return unsupported("it is a zImage, to be loaded below 1 MiB".into());
    }
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return unsupported("it is a 32-bit kernel (XLF_KERNEL_64 is not set)".into());
    }
    Ok(())
}

/// Returns the length of what is loaded: all that follows the setup sectors, a signature included.
fn check_sizes(name: &str, header: &setup_header, setup_size: u64, len: u64) -> Result<u64, KernelError> {
    let promised_len = u64::from(header.syssize) * 16;
    let promised = setup_size + promised_len;
    // The size is counted in paragraphs of 16 bytes, the last of which need not be full.
    if len.saturating_add(15) < promised {
        return Err(truncated(name, promised, len));
    }
    let kernel_len = len.saturating_sub(setup_size);
    if promised_len <= ENTRY_64 || kernel_len <= ENTRY_64 {
        return Err(corrupt(name, format!("{promised_len} bytes of kernel do not reach its entry point")));
    }
    let payload_end = u64::from(header.payload_offset) + u64::from(header.payload_length);
    if payload_end > promised_len {
        return Err(corrupt(
            name,
            format!("its compressed payload ends at {payload_end:#x} of {promised_len:#x} bytes"),
        ));
    }
    Ok(kernel_len)
}

/// The kernel goes to its preferred address: there it neither moves nor, if it is not relocatable, fails.
fn place(name: &str, mut header: setup_header, kernel_len: u64) -> Result<Plan, KernelError> {
    let (start, alignment) = (header.pref_address, u64::from(header.kernel_alignment));
    if start < HIGH_MEMORY {
        return Err(corrupt(name, format!("it asks to be loaded at {start:#x}, below 1 MiB")));
    }
    if !alignment.is_power_of_two() {
        return Err(corrupt(name, format!("its alignment, {alignment:#x}, is not a power of two")));
    }
    let (init_size, entry) = (u64::from(header.init_size), start.checked_add(ENTRY_64));
    let runtime_end = start.checked_next_multiple_of(alignment).and_then(|at| at.checked_add(init_size));
    let (Some(entry), Some(loaded_end), Some(runtime_end), Ok(code32_start)) =
        (entry, start.checked_add(kernel_len), runtime_end, u32::try_from(start))
    else {
        return Err(corrupt(name, format!("it asks to be loaded at {start:#x}, above 4 GiB")));
    };
    header.code32_start = code32_start;
    let entries = Entries { linux: Some(entry), pvh: None, says_linux: true };
    Ok(Plan { entries, range: start..loaded_end.max(runtime_end), clear: Vec::new(), header })
}

fn truncated(name: &str, promised: u64, found: u64) -> KernelError {
    KernelError::Truncated { name: name.into(), promised, found }
}

fn corrupt(name: &str, cause: String) -> KernelError {
    KernelError::Corrupt { name: name.into(), cause }
}
