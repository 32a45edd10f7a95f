//! The smallest guest that says that it runs.
//!
//! One ELF for all protocols: its entry point is for the Linux 64-bit protocol, and a note names the same address for
//! PVH, which enters in 32-bit mode. The code means the same in both modes.

/// The serial port that every VMM here has.
const SERIAL: u16 = 0x3f8;
/// Its scratch register: a write changes nothing, but leaves the guest.
const SCRATCH: u16 = SERIAL + 7;
/// Where the code lies in guest memory.
const LOAD: u32 = 0x10_0000;
/// Offsets in the file: the code begins a page, so that its address is congruent to it.
const CODE_OFFSET: usize = 0x1000;
const NOTE_OFFSET: usize = 0x100;

/// What the probe sends when it runs: STX, which is in no message of a VMM.
pub const STARTED: u8 = 2;
/// What it sends when it is done: ETX.
pub const DONE: u8 = 3;

/// What a [`ticking`] guest sends over and over: ENQ.
pub const TICK: u8 = 5;
/// Where a [`ticking`] guest has its data.
const DATA: u32 = 16 << 20;

/// A guest that writes to every page of `data_mib` MiB of its memory, sends [`STARTED`], and then [`TICK`] after every few hundred
/// instructions, for ever, as an ELF file.
pub fn ticking(data_mib: u32) -> Vec<u8> {
    elf(ticking_code(data_mib))
}

/// A guest that sends [`STARTED`], makes `exits` writes to a register that answers nothing, sends [`DONE`] and halts
/// for ever, as an ELF file.
pub fn image(exits: u32) -> Vec<u8> {
    elf(code(exits))
}

fn elf(code: Vec<u8>) -> Vec<u8> {
    let mut elf = header(code.len());
    elf.resize(NOTE_OFFSET, 0);
    elf.extend(pvh_note());
    elf.resize(CODE_OFFSET, 0);
    elf.extend(code);
    elf
}

fn mov_dx(port: u16) -> Vec<u8> {
    [&[0x66, 0xba][..], &port.to_le_bytes()].concat()
}

/// mov dx, port; mov al, byte; out dx, al
fn send(byte: u8) -> Vec<u8> {
    [&mov_dx(SERIAL)[..], &[0xb0, byte, 0xee]].concat()
}

fn ticking_code(data_mib: u32) -> Vec<u8> {
    let mut code = vec![0xfa, 0xbf]; // cli; mov edi, DATA
    code.extend(DATA.to_le_bytes());
    code.push(0xb9); // mov ecx, pages
    code.extend((data_mib << 8).max(1).to_le_bytes());
    code.extend([0x89, 0x3f, 0x81, 0xc7, 0, 0x10, 0, 0, 0xe2, 0xf6]); // again: mov [edi], edi; add edi, 4096; loop again
    code.extend(send(STARTED));
    code.extend(send(TICK));
    code.extend([0xb9, 0xf4, 1, 0, 0, 0xe2, 0xfe, 0xee, 0xeb, 0xf6]); // again: mov ecx, 500; loop itself; out dx, al; jmp again
    code
}

/// Instructions that are encoded alike in 32-bit and 64-bit mode (Intel SDM volume 2).
fn code(exits: u32) -> Vec<u8> {
    let mut code = vec![0xfa]; // cli
    code.extend(send(STARTED));
    if exits > 0 {
        code.extend(mov_dx(SCRATCH));
        code.push(0xb9); // mov ecx, exits
        code.extend(exits.to_le_bytes());
        code.extend([0xee, 0xe2, 0xfd]); // again: out dx, al; loop again
    }
    code.extend(send(DONE));
    code.extend([0xf4, 0xeb, 0xfd]); // again: hlt; jmp again
    code
}

/// ELF header and two program headers (gABI, chapters 4 and 5).
fn header(code_len: usize) -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    for half in [2_u16, 62] {
        elf.extend(half.to_le_bytes()); // executable, x86-64
    }
    elf.extend(1_u32.to_le_bytes());
    for quad in [u64::from(LOAD), 64, 0] {
        elf.extend(quad.to_le_bytes()); // entry, program headers, section headers
    }
    elf.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 2, 64, 0, 0] {
        elf.extend(half.to_le_bytes()); // sizes and counts: two program headers, no sections
    }
    let (load, note, rwx) = (1_u32, 4_u32, 7_u32);
    for (kind, offset, address, len) in [
        (load, CODE_OFFSET as u64, u64::from(LOAD), code_len as u64),
        (note, NOTE_OFFSET as u64, 0, pvh_note().len() as u64),
    ] {
        elf.extend(kind.to_le_bytes());
        elf.extend(rwx.to_le_bytes());
        for quad in [offset, address, address, len, len, 4] {
            elf.extend(quad.to_le_bytes());
        }
    }
    elf
}

/// XEN_ELFNOTE_PHYS32_ENTRY (Xen's public/elfnote.h): where PVH enters.
fn pvh_note() -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4_u32, 4, 18] {
        note.extend(word.to_le_bytes()); // length of the name, of the value; the kind
    }
    note.extend(b"Xen\0");
    note.extend(LOAD.to_le_bytes());
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_where_both_entries_say() {
        for exits in [0, 7] {
            let elf = image(exits);
            let quad = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap());
            assert_eq!(quad(24), u64::from(LOAD));
            assert_eq!((quad(64 + 8), quad(64 + 16)), (CODE_OFFSET as u64, u64::from(LOAD)));
            assert_eq!(elf[NOTE_OFFSET + 16..NOTE_OFFSET + 20], LOAD.to_le_bytes());
            assert_eq!(elf[CODE_OFFSET..CODE_OFFSET + 6], [0xfa, 0x66, 0xba, 0xf8, 0x03, 0xb0]);
            assert!(elf.ends_with(&[DONE, 0xee, 0xf4, 0xeb, 0xfd]));
        }
    }
}
