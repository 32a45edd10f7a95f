//! The ELF headers of a vmlinux or another kernel, checked (System V ABI, gABI chapters 4 and 5).

mod notes;

use crate::bytes::{u16_at, u32_at, u64_at};
use crate::error::KernelError;
use crate::image::Plan;
use crate::map::HIGH_MEMORY;
use crate::protocol::Entries;
use crate::source::Source;
use linux_loader::loader::bootparam::setup_header;
use notes::Notes;
use std::ops::Range;

const HEADER_LEN: u64 = 64;
const PHDR_LEN: u16 = 56;
/// A vmlinux has five.
const PHDRS_MAX: u16 = 128;
/// Of a note segment so much is read; a vmlinux has half a KiB.
const NOTES_MAX: u64 = 64 << 10;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
/// What a kernel that has no setup header takes: COMMAND_LINE_SIZE without its zero byte.
const CMDLINE_MAX: u32 = 2047;
/// What every 64-bit kernel's setup header says.
const INITRD_ADDR_MAX: u32 = 0x7fff_ffff;

/// 64-bit, little-endian, x86-64 (machine 62), executable (type 2).
pub(crate) fn recognises(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF\x02\x01") && u16_at(head, 0x10) == Some(2) && u16_at(head, 0x12) == Some(62)
}

struct Segment {
    kind: u32,
    offset: u64,
    paddr: u64,
    file_len: u64,
    mem_len: u64,
}

/// Checks the headers of a file of `len` bytes whose first KiB is `head`, and says where it goes.
pub(crate) fn plan(name: &str, head: &[u8], len: u64, source: &mut Source) -> Result<Plan, KernelError> {
    let segments = read_segments(name, head, len, source)?;
    if segments.iter().any(|s| s.kind == PT_INTERP) {
        let looks_like = "a dynamically linked program".into();
        return Err(KernelError::Format { name: name.into(), looks_like });
    }
    let in_file = segments.iter().filter(|s| s.kind == PT_LOAD || s.kind == PT_NOTE);
    let promised = in_file.map(|s| s.offset.saturating_add(s.file_len)).max().unwrap_or(0);
    if promised > len {
        return Err(KernelError::Truncated { name: name.into(), promised, found: len });
    }
    let notes = read_notes(name, &segments, source)?;
    let entry = u64_at(head, 0x18).unwrap_or(0);
    place(name, entry, notes, segments.iter().filter(|s| s.kind == PT_LOAD))
}

fn read_notes(name: &str, segments: &[Segment], source: &mut Source) -> Result<Notes, KernelError> {
    let mut notes = Notes::default();
    for s in segments.iter().filter(|s| s.kind == PT_NOTE) {
        let bytes = source
            .read_at(s.offset, s.file_len.min(NOTES_MAX) as usize)
            .map_err(|cause| KernelError::File { name: name.into(), attempt: "read its notes", cause })?;
        notes.read(&bytes);
    }
    Ok(notes)
}

fn read_segments(
    name: &str,
    head: &[u8],
    len: u64,
    source: &mut Source,
) -> Result<Vec<Segment>, KernelError> {
    if len < HEADER_LEN {
        return Err(KernelError::Truncated { name: name.into(), promised: HEADER_LEN, found: len });
    }
    let offset = u64_at(head, 0x20).unwrap_or(0);
    let (size, count) = (u16_at(head, 0x36).unwrap_or(0), u16_at(head, 0x38).unwrap_or(0));
    if size != PHDR_LEN || offset < HEADER_LEN {
        return Err(corrupt(
            name,
            format!("its program headers of {size} bytes at {offset:#x} make no sense"),
        ));
    }
    if count == 0 || count > PHDRS_MAX {
        return Err(corrupt(name, format!("it has {count} program headers, a kernel has 1 to {PHDRS_MAX}")));
    }
    let table_len = u64::from(count) * u64::from(PHDR_LEN);
    let promised = offset.saturating_add(table_len);
    if promised > len {
        return Err(KernelError::Truncated { name: name.into(), promised, found: len });
    }
    let table = source.read_at(offset, table_len as usize).map_err(|cause| KernelError::File {
        name: name.into(),
        attempt: "read its program headers",
        cause,
    })?;
    Ok(table.chunks_exact(PHDR_LEN.into()).filter_map(segment).collect())
}

fn segment(phdr: &[u8]) -> Option<Segment> {
    Some(Segment {
        kind: u32_at(phdr, 0)?,
        offset: u64_at(phdr, 0x08)?,
        paddr: u64_at(phdr, 0x18)?,
        file_len: u64_at(phdr, 0x20)?,
        mem_len: u64_at(phdr, 0x28)?,
    })
}

/// Checks that the segments lie above 1 MiB and apart from each other, and that what is to be entered is in one.
fn place<'a>(
    name: &str,
    entry: u64,
    notes: Notes,
    segments: impl Iterator<Item = &'a Segment>,
) -> Result<Plan, KernelError> {
    let (mut whole, mut loaded, mut clear) = (Vec::<Range<u64>>::new(), Vec::new(), Vec::new());
    for s in segments {
        let (at, end) = (s.paddr, s.paddr.checked_add(s.mem_len));
        let Some(end) = end.filter(|_| s.file_len <= s.mem_len) else {
            let (file_len, mem_len) = (s.file_len, s.mem_len);
            let cause =
                format!("its segment at {at:#x} has {file_len} bytes in the file, {mem_len} in memory");
            return Err(corrupt(name, cause));
        };
        if at == end {
            continue;
        }
        if at < HIGH_MEMORY {
            return Err(corrupt(name, format!("it asks to be loaded at {at:#x}, below 1 MiB")));
        }
        if let Some(other) = whole.iter().find(|o| o.start < end && at < o.end) {
            let other = other.start;
            return Err(corrupt(name, format!("its segments at {at:#x} and {other:#x} overlap")));
        }
        let loaded_end = at + s.file_len;
        loaded.push(at..loaded_end);
        whole.push(at..end);
        if loaded_end < end {
            clear.push(loaded_end..end);
        }
    }
    let entries = entries(name, entry, notes, &loaded)?;
    let start = whole.iter().map(|r| r.start).min().unwrap_or(HIGH_MEMORY);
    let end = whole.iter().map(|r| r.end).max().unwrap_or(start);
    Ok(Plan { entries, range: start..end, clear, header: header() })
}

/// The entry points, which must be in what is `loaded` from the file. That of an image that says nothing of PVH is
/// Linux's.
fn entries(name: &str, entry: u64, notes: Notes, loaded: &[Range<u64>]) -> Result<Entries, KernelError> {
    let is_loaded = |at: &u64| loaded.iter().any(|r| r.contains(at));
    let pvh = notes.pvh_entry.map(u64::from);
    if let Some(at) = pvh.filter(|at| !is_loaded(at)) {
        return Err(corrupt(name, format!("its PVH entry point {at:#x} is in none of its segments")));
    }
    let linux = Some(entry).filter(is_loaded);
    if pvh.is_none() && linux.is_none() {
        return Err(corrupt(name, format!("its entry point {entry:#x} is in none of its segments")));
    }
    Ok(Entries { linux, pvh, says_linux: notes.linux || pvh.is_none() })
}

/// The setup header that the kernel would have had as a bzImage, as far as it looks at it after the entry.
fn header() -> setup_header {
    setup_header {
        boot_flag: 0xaa55,
        header: 0x5372_6448,
        version: 0x020f,
        loadflags: 1,
        kernel_alignment: 0x20_0000,
        initrd_addr_max: INITRD_ADDR_MAX,
        cmdline_size: CMDLINE_MAX,
        ..Default::default()
    }
}

fn corrupt(name: &str, cause: String) -> KernelError {
    KernelError::Corrupt { name: name.into(), cause }
}
