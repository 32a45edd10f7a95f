//! Valid images of a few KiB, to be loaded or broken. Their code only halts.

/// Where both images are loaded: 2 MiB.
pub const LOAD_ADDRESS: u64 = 0x20_0000;
/// hlt; jmp to it
const CODE: [u8; 3] = [0xf4, 0xeb, 0xfd];
/// Two sectors of setup code, 4 KiB of kernel.
const SETUP_SECTS: usize = 1;
const KERNEL_LEN: usize = 4096;

/// A bzImage of boot protocol 2.15 that can be entered in 64-bit mode and needs 64 KiB at [`LOAD_ADDRESS`].
pub fn bzimage() -> Vec<u8> {
    let setup_len = (SETUP_SECTS + 1) * 512;
    let mut image = vec![0; setup_len + KERNEL_LEN];
    image[0x1f1] = SETUP_SECTS as u8;
    put(&mut image, 0x1f4, &(KERNEL_LEN as u32 / 16).to_le_bytes()); // syssize
    put(&mut image, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]); // boot_flag, jump over the header
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x020f_u16.to_le_bytes());
    image[0x211] = 1; // loadflags: LOADED_HIGH
    put(&mut image, 0x214, &0x10_0000_u32.to_le_bytes()); // code32_start
    put(&mut image, 0x22c, &0x7fff_ffff_u32.to_le_bytes()); // initrd_addr_max
    put(&mut image, 0x230, &0x20_0000_u32.to_le_bytes()); // kernel_alignment
    put(&mut image, 0x234, &[1, 21, 1, 0]); // relocatable, min_alignment, xloadflags: XLF_KERNEL_64
    put(&mut image, 0x238, &2047_u32.to_le_bytes()); // cmdline_size
    put(&mut image, 0x248, &0x400_u32.to_le_bytes()); // payload_offset
    put(&mut image, 0x24c, &0x800_u32.to_le_bytes()); // payload_length
    put(&mut image, 0x258, &LOAD_ADDRESS.to_le_bytes()); // pref_address
    put(&mut image, 0x260, &0x1_0000_u32.to_le_bytes()); // init_size
    put(&mut image, setup_len + 0x200, &CODE);
    image
}

/// Program headers of [`elf`] begin here; each has 56 bytes.
pub const ELF_PHDRS: usize = 64;

/// The notes of [`elf`] begin here: Linux's own, and behind it the one with the PVH entry.
pub const ELF_NOTES: usize = 0x580;
const LINUX_NOTE: &[u8] = b"\x06\0\0\0\x04\0\0\0\0\x01\0\0Linux\0\0\0salt";
const PVH_NOTE: &[u8] = b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0";
/// Where [`elf`] and [`pvh_elf`] are entered by PVH.
pub const PVH_ENTRY: u64 = LOAD_ADDRESS + 0x10;

/// A vmlinux of two segments and notes: code at [`LOAD_ADDRESS`] and [`PVH_ENTRY`], and data of which half is not in the
/// file.
pub fn elf() -> Vec<u8> {
    let mut image = vec![0; 0x600];
    put(&mut image, 0, b"\x7fELF\x02\x01\x01");
    put(&mut image, 0x10, &[2, 0, 62, 0, 1]); // executable, x86-64, version 1
    put(&mut image, 0x18, &LOAD_ADDRESS.to_le_bytes()); // entry
    put(&mut image, 0x20, &(ELF_PHDRS as u64).to_le_bytes());
    put(&mut image, 0x34, &[64, 0, 56, 0, 3]); // header sizes, program header count
    phdr(&mut image, 0, 1, [0x400, LOAD_ADDRESS, 0x100, 0x100]);
    phdr(&mut image, 1, 1, [0x500, LOAD_ADDRESS + 0x1000, 0x80, 0x2000]);
    put(&mut image, 0x400, &CODE);
    put(&mut image, 0x410, &CODE);
    image[0x500..0x580].fill(0xda);
    notes(&mut image, &[LINUX_NOTE, PVH_NOTE, &(PVH_ENTRY as u32).to_le_bytes()].concat());
    image
}

/// An ELF like [`elf`] that is not Linux: its only note is the one with the PVH entry.
pub fn pvh_elf() -> Vec<u8> {
    let mut image = elf();
    notes(&mut image, &[PVH_NOTE, &(PVH_ENTRY as u32).to_le_bytes()].concat());
    image
}

/// Replaces an ELF's notes.
pub fn notes(image: &mut [u8], notes: &[u8]) {
    let len = notes.len() as u64;
    phdr(image, 2, 4, [ELF_NOTES as u64, 0, len, len]);
    image[ELF_NOTES..].fill(0);
    put(image, ELF_NOTES, notes);
}

/// Writes one program header: type, and file offset, physical address, length in the file and in memory.
fn phdr(image: &mut [u8], index: usize, kind: u32, [offset, address, file_len, mem_len]: [u64; 4]) {
    let at = ELF_PHDRS + index * 56;
    put(image, at, &kind.to_le_bytes());
    for (field, value) in [(0x08, offset), (0x18, address), (0x20, file_len), (0x28, mem_len)] {
        put(image, at + field, &value.to_le_bytes());
    }
}

/// Overwrites bytes at `offset`.
///
/// # Panics
/// If they are not all in `image`.
pub fn put(image: &mut [u8], offset: usize, bytes: &[u8]) {
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}
