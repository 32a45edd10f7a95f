//! The ELF notes that matter for booting (gABI chapter 5, "Note Section").

use crate::bytes::u32_at;

/// The note's name and type that carry the PVH entry point (Xen's public/elfnote.h).
const XEN: &[u8] = b"Xen\0";
const XEN_PHYS32_ENTRY: u32 = 18;
/// The name of Linux's own notes (the kernel's include/linux/elfnote.h).
const LINUX: &[u8] = b"Linux\0";
const HEADER_LEN: usize = 12;
const ALIGN: usize = 4;

/// What the notes say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Notes {
    /// The PVH entry point, as it stands there.
    pub pvh_entry: Option<u32>,
    /// There is a note of Linux's.
    pub linux: bool,
}

impl Notes {
    /// Adds what the notes in `bytes` say; of two PVH entries the first counts. What follows a note that goes beyond
    /// the end is not looked at.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((note, next)) = split(rest) {
            self.linux |= note.name == LINUX;
            if note.name == XEN && note.kind == XEN_PHYS32_ENTRY && self.pvh_entry.is_none() {
                // Four bytes, or eight of which the upper ones are zero.
                self.pvh_entry = u32_at(note.content, 0);
            }
            rest = next;
        }
    }
}

struct Note<'a> {
    name: &'a [u8],
    kind: u32,
    content: &'a [u8],
}

/// The first note, and what follows it.
fn split(bytes: &[u8]) -> Option<(Note<'_>, &[u8])> {
    let (name_len, len, kind) = (u32_at(bytes, 0)?, u32_at(bytes, 4)?, u32_at(bytes, 8)?);
    let (name_len, len) = (usize::try_from(name_len).ok()?, usize::try_from(len).ok()?);
    let name_end = HEADER_LEN.checked_add(name_len)?;
    let start = name_end.checked_next_multiple_of(ALIGN)?;
    let end = start.checked_add(len)?;
    let next = end.checked_next_multiple_of(ALIGN)?;
    let (name, content) = (bytes.get(HEADER_LEN..name_end)?, bytes.get(start..end)?);
    // The last one need not be padded.
    Some((Note { name, kind, content }, bytes.get(next..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in [name.len() as u32, content.len() as u32, kind] {
            bytes.extend(field.to_le_bytes());
        }
        for part in [name, content] {
            bytes.extend(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Notes {
        let mut notes = Notes::default();
        notes.read(bytes);
        notes
    }

    #[test]
    fn the_pvh_entry_is_found_behind_other_notes_and_the_first_counts() {
        let xen = |entry: u32| note(b"Xen\0", 18, &entry.to_le_bytes());
        let before =
            [note(b"GNU\0", 3, &[1; 20]), note(b"Linux\0", 0x100, &[0; 4]), note(b"Xen\0", 6, b"linux\0")];
        let all = [before.concat(), xen(0x123_4567), xen(1)].concat();
        assert_eq!(read(&all), Notes { pvh_entry: Some(0x123_4567), linux: true });
        let wide = note(b"Xen\0", 18, &0x20_0000_u64.to_le_bytes());
        assert_eq!(read(&wide), Notes { pvh_entry: Some(0x20_0000), linux: false });
    }

    #[test]
    fn what_only_looks_like_it_does_not_count() {
        for other in [
            note(b"Xen\0", 17, &[1; 4]),
            note(b"Xen", 18, &[1; 4]),
            note(b"Xem\0", 18, &[1; 4]),
            note(b"Xen\0", 18, &[1; 3]),
            note(b"", 18, &[1; 4]),
            Vec::new(),
        ] {
            assert_eq!(read(&other), Notes::default(), "{other:?}");
        }
    }

    #[test]
    fn a_note_that_goes_beyond_the_end_ends_the_list() {
        let good = note(b"Xen\0", 18, &7_u32.to_le_bytes());
        for len in 0..good.len() {
            assert_eq!(read(&good[..len]), Notes::default(), "{len}");
        }
        for field in [0, 4] {
            let mut bad = note(b"GNU\0", 3, &[1; 4]);
            bad[field..field + 4].fill(0xff);
            assert_eq!(read(&[bad, good.clone()].concat()), Notes::default());
        }
        assert_eq!(
            read(&note(b"Xen\0", 18, &[1, 0, 0, 0, 9])[..21]).pvh_entry,
            Some(1),
            "not padded at the end"
        );
    }
}
