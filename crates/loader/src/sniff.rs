//! Says what a file that is no kernel looks like, so that the error helps.

use crate::bytes::u16_at;

/// Magic numbers with the offset they are at; the first that matches names the file.
const MAGICS: &[(usize, &[u8], &str)] = &[
    (0x38, b"ARM\x64", "an arm64 Image"),
    (0x38, b"RSC\x05", "a RISC-V Image"),
    (0x24, b"\x18\x28\x6f\x01", "a 32-bit Arm zImage"),
    (0, b"\x1f\x8b", "gzip data (unpack it first)"),
    (0, b"\xfd7zXZ\0", "xz data (unpack it first)"),
    (0, b"\x28\xb5\x2f\xfd", "zstd data (unpack it first)"),
    (0, b"BZh", "bzip2 data (unpack it first)"),
    (0, b"\x5d\0\0", "lzma data (unpack it first)"),
    (0, b"\x04\x22\x4d\x18", "lz4 data (unpack it first)"),
    (0, b"\x02\x21\x4c\x18", "lz4 data (unpack it first)"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"070701", "a cpio archive (an initrd?)"),
    (0, b"070702", "a cpio archive (an initrd?)"),
    (0x101, b"ustar", "a tar archive"),
    (0, b"!<arch>\n", "an ar archive (a Debian package?)"),
    (0, b"\x27\x05\x19\x56", "a U-Boot uImage"),
    (0, b"\xd0\x0d\xfe\xed", "a device tree"),
    (0, b"QFI\xfb", "a qcow2 disk image"),
    (0, b"KDMV", "a VMDK disk image"),
    (0, b"#!", "a script"),
    (0, b"MZ", "a PE/EFI executable, or a bzImage that ends before its header"),
    (0x1fe, b"\x55\xaa", "a boot sector or disk image"),
];

/// What a file that starts with `head` looks like, with an article. `head` is all of a file of less than 1 KiB.
pub(crate) fn looks_like(head: &[u8]) -> String {
    if head.is_empty() {
        return "an empty file".into();
    }
    if head.starts_with(b"\x7fELF") {
        return elf(head);
    }
    for (offset, magic, name) in MAGICS {
        if head.get(*offset..).is_some_and(|rest| rest.starts_with(magic)) {
            return (*name).into();
        }
    }
    if head.iter().all(|b| *b == 0) {
        return "nothing but zeros".into();
    }
    if is_text(head) {
        return "text".into();
    }
    let first: Vec<String> = head.iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("unknown data (it begins with {})", first.join(" "))
}

/// Text has no control characters but white space, and its first KiB may end inside a character.
fn is_text(head: &[u8]) -> bool {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => {
            head.get(..e.valid_up_to()).and_then(|b| std::str::from_utf8(b).ok()).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !text.is_empty() && text.chars().all(|c| !c.is_control() || c.is_ascii_whitespace())
}

/// What kind of ELF it is; only called for those that are no 64-bit x86 executable.
fn elf(head: &[u8]) -> String {
    let big_endian = head.get(5) == Some(&2);
    let half = |offset| u16_at(head, offset).map(|v| if big_endian { v.swap_bytes() } else { v });
    let (Some(kind), Some(machine)) = (half(0x10), half(0x12)) else {
        return "an ELF that ends inside its header".into();
    };
    // Machine and type numbers: System V ABI, gABI chapter 4.
    let machine = match machine {
        3 => "32-bit x86".into(),
        8 => "MIPS".into(),
        20 | 21 => "PowerPC".into(),
        22 => "s390".into(),
        40 => "32-bit Arm".into(),
        62 if head.get(4) == Some(&1) => "x86-64 with 32-bit pointers (x32)".into(),
        62 => match kind {
            1 => return "an object file (a kernel module?)".into(),
            3 => return "a shared library or a position-independent program".into(),
            4 => return "a core dump".into(),
            _ => return format!("an x86-64 ELF of type {kind}, not an executable"),
        },
        183 => "arm64".into(),
        243 => "RISC-V".into(),
        258 => "LoongArch".into(),
        other => format!("machine {other}"),
    };
    format!("an ELF for another machine ({machine})")
}

#[cfg(test)]
mod tests;
