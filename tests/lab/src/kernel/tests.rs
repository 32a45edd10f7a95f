use super::*;

/// A bzImage of one setup sector with `payload` at the place that its header names.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 1024];
    image[0x1f1] = 1;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    image.extend_from_slice(&[0xee; 16]);
    image.extend_from_slice(payload);
    image
}

fn extract(image: &[u8]) -> Result<Vec<u8>, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), image).unwrap();
    extract_vmlinux(file.path()).map_err(|error| error.to_string())
}

fn elf(size: usize) -> Vec<u8> {
    let mut bytes = b"\x7fELF".to_vec();
    bytes.extend((0..size).map(|index| (index / 7) as u8));
    bytes
}

fn lz4(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x02, 0x21, 0x4c, 0x18];
    for block in data.chunks(100_000) {
        let packed = lz4_flex::block::compress(block);
        out.extend_from_slice(&u32::try_from(packed.len()).unwrap().to_le_bytes());
        out.extend_from_slice(&packed);
    }
    out.extend_from_slice(&u32::try_from(data.len()).unwrap().to_le_bytes());
    out
}

fn xz_packed(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    liblzma::read::XzEncoder::new(data, 1).read_to_end(&mut out).unwrap();
    out.extend_from_slice(&u32::try_from(data.len()).unwrap().to_le_bytes());
    out
}

#[test]
fn every_compression_gives_the_elf_back_whole() {
    let elf = elf(250_000);
    let zstd = ruzstd::encoding::compress_to_vec(&elf[..], ruzstd::encoding::CompressionLevel::Fastest);
    for payload in [lz4(&elf), xz_packed(&elf), zstd] {
        assert!(extract(&bzimage(&payload)).unwrap() == elf);
    }
}

#[test]
fn bad_images_are_refused_with_their_cause() {
    let good = bzimage(&lz4(&elf(300_000)));
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut image = good.clone();
        change(&mut image);
        extract(&image).unwrap_err()
    };
    assert!(extract(b"").unwrap_err().contains("not a bzImage"));
    assert!(with(&|image| image[0x203] = b'x').contains("not a bzImage"));
    assert!(with(&|image| image[0x206] = 7).contains("older than 2.08"));
    assert!(with(&|image| image.truncate(0x24a)).contains("truncated in its header"));
    assert!(with(&|image| image.truncate(image.len() - 1)).contains("ends after the file"));
    assert!(with(&|image| image[0x24f] = 0xff).contains("ends after the file"));
    assert!(with(&|image| image[1040 + 4 + 3] = 0xff).contains("cut off"));
    assert!(with(&|image| image[1040] = 0x1f).contains("not supported"));
    let message = extract(&bzimage(&lz4(b"plain text"))).unwrap_err();
    assert!(message.contains("not an ELF"), "{message}");
    assert!(extract(&bzimage(b"")).unwrap_err().contains("empty"));
    let xz = xz_packed(&elf(10_000));
    assert!(extract(&bzimage(&xz[..xz.len() / 2])).unwrap_err().contains("corrupt"));
}

#[test]
fn a_missing_file_is_named() {
    let message = extract_vmlinux(Path::new("/nowhere/vmlinuz")).unwrap_err().to_string();
    assert!(message.starts_with("kernel at /nowhere/vmlinuz: cannot read: "), "{message}");
}

#[test]
fn names_and_versions_belong_together() {
    for version in Version::ALL {
        assert_eq!(Version::from_name(version.name()), Some(version));
    }
    assert_eq!(Version::from_name("6"), None);
}
