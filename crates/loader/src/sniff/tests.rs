use super::*;

fn elf(class: u8, order: u8, kind: [u8; 2], machine: [u8; 2]) -> Vec<u8> {
    let ident = [0x7f, b'E', b'L', b'F', class, order, 1, 0];
    [ident.as_slice(), &[0; 8], &kind, &machine, &[0; 44]].concat()
}

fn at(offset: usize, magic: &[u8]) -> Vec<u8> {
    [vec![1; offset].as_slice(), magic, &[1; 16]].concat()
}

#[test]
fn files_that_are_no_kernel_are_named() {
    for (head, expected) in [
        (vec![], "an empty file"),
        (at(0x38, b"ARM\x64"), "an arm64 Image"),
        (at(0x38, b"RSC\x05"), "a RISC-V Image"),
        (at(0, b"\x1f\x8b\x08"), "gzip data (unpack it first)"),
        (at(0, b"\xfd7zXZ\0"), "xz data (unpack it first)"),
        (at(0, b"070701"), "a cpio archive (an initrd?)"),
        (at(0, b"MZ"), "a PE/EFI executable, or a bzImage that ends before its header"),
        (at(0, b"QFI\xfb"), "a qcow2 disk image"),
        (at(0x1fe, b"\x55\xaa"), "a boot sector or disk image"),
        (b"#!/bin/sh\n".to_vec(), "a script"),
        (b"root=/dev/vda1 \xc3\xbc\n".to_vec(), "text"),
        (vec![0; 100], "nothing but zeros"),
        (vec![0xde, 0xad, 0xbe, 0xef], "unknown data (it begins with de ad be ef)"),
        (b"\x7fELF\x02".to_vec(), "an ELF that ends inside its header"),
        (elf(2, 1, [2, 0], [183, 0]), "an ELF for another machine (arm64)"),
        (elf(1, 1, [2, 0], [3, 0]), "an ELF for another machine (32-bit x86)"),
        (elf(2, 2, [0, 2], [0, 22]), "an ELF for another machine (s390)"),
        (elf(2, 1, [2, 0], [99, 1]), "an ELF for another machine (machine 355)"),
        (elf(2, 1, [1, 0], [62, 0]), "an object file (a kernel module?)"),
        (elf(2, 1, [3, 0], [62, 0]), "a shared library or a position-independent program"),
    ] {
        assert_eq!(looks_like(&head), expected, "{head:x?}");
    }
}

#[test]
fn text_may_be_cut_inside_a_character_but_has_no_broken_one() {
    assert_eq!(looks_like(b"kernel \xc3"), "text");
    assert!(looks_like(b"kernel \xc3 image").starts_with("unknown data"));
    assert!(looks_like(b"kernel\x01").starts_with("unknown data"));
    assert!(looks_like(b"\xc3").starts_with("unknown data"));
}
