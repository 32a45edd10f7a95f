use super::*;

/// The smallest 64-bit ELF with a section `.modinfo`.
fn module(modinfo: &str) -> Vec<u8> {
    let names = b"\0.modinfo\0.shstrtab\0";
    let data = modinfo.replace('|', "\0").into_bytes();
    let (data_at, names_at) = (64, 64 + data.len());
    let sections_at = (names_at + names.len()).next_multiple_of(8);
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [1u16, 62] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes());
    for long in [0, 0, sections_at as u64] {
        file.extend(long.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 0, 0, 64, 3, 2] {
        file.extend(half.to_le_bytes());
    }
    file.extend(&data);
    file.extend(names);
    file.resize(sections_at, 0);
    for (name, kind, offset, size) in
        [(0u32, 0u32, 0, 0), (1, 1, data_at, data.len()), (10, 3, names_at, names.len())]
    {
        file.extend(name.to_le_bytes());
        file.extend(kind.to_le_bytes());
        for long in [0, 0, offset as u64, size as u64, 0, 1, 0] {
            file.extend(long.to_le_bytes());
        }
    }
    file
}

fn order(files: &[(&str, &str)], builtin: &str, wanted: &[&str]) -> Result<Vec<String>, String> {
    let dir = tempfile::tempdir().unwrap();
    for (name, modinfo) in files {
        let path = dir.path().join("kernel/drivers").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, module(modinfo)).unwrap();
    }
    std::fs::write(dir.path().join("modules.builtin"), builtin).unwrap();
    match in_load_order(dir.path(), wanted) {
        Ok(order) => Ok(order.into_iter().map(|(name, _)| name).collect()),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn dependencies_come_first_and_once() {
    let files = [
        ("kvm-amd.ko", "license=GPL|depends=kvm,ccp"),
        ("kvm.ko", "depends=irqbypass"),
        ("a/irqbypass.ko", "depends="),
        ("ccp.ko", "author=x|depends=kvm"),
    ];
    assert_eq!(order(&files, "", &["kvm_amd", "kvm"]).unwrap(), ["irqbypass", "kvm", "ccp", "kvm_amd"]);
    assert_eq!(order(&files, "", &["kvm-amd"]).unwrap().len(), 4);
}

#[test]
fn built_in_modules_need_no_file_and_missing_ones_are_named() {
    let files = [("blk.ko", "depends=virtio,ring")];
    assert_eq!(
        order(&files, "kernel/virtio/virtio.ko\nkernel/ring.ko\n", &["blk", "virtio"]).unwrap(),
        ["blk"]
    );
    let message = order(&files, "kernel/ring.ko\n", &["blk"]).unwrap_err();
    assert!(message.contains("no module virtio there"), "{message}");
}

#[test]
fn soft_dependencies_are_loaded_when_there_are_any() {
    let files = [
        ("ext4.ko", "depends=|softdep=pre: crc32c gone post: after"),
        ("crc32c.ko", "depends="),
        ("after.ko", "depends="),
    ];
    assert_eq!(order(&files, "", &["ext4"]).unwrap(), ["crc32c", "ext4"]);
}

#[test]
fn a_cycle_ends_and_garbage_is_refused() {
    let files = [("a.ko", "depends=b"), ("b.ko", "depends=a")];
    assert_eq!(order(&files, "", &["a"]).unwrap(), ["b", "a"]);
    assert_eq!(modinfo(b"\x7fELF"), None);
    assert_eq!(modinfo(b""), None);
    assert_eq!(modinfo(&module("depends=x")[..100]), None);
}
