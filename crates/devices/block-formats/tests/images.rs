//! Images of every kind that qemu-img makes read as it reads them, or are refused with a word that helps.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use common::{all, check, content, have_qemu, open, qemu, read, refused, try_open, write};
use drystone_block::{BlockConfig, Image};
use drystone_block_formats::{
    Backing, BackingFile, Format, FormatDisk, NewImage, create, inspect, looks_like,
};
use std::path::Path;

const SIZE: usize = 3 << 20;

/// Something that can be compressed, with holes.
fn pattern() -> Vec<u8> {
    let block = |n: usize| if n % 5 == 3 { 0 } else { (n * 7 % 250) as u8 + 1 };
    (0..SIZE).map(|i| if i % 4096 < 100 { (i / 3) as u8 } else { block(i >> 14) }).collect()
}

fn made(dir: &Path, how: &str) -> std::path::PathBuf {
    let (raw, path) = (dir.join("from.raw"), dir.join("disk.qcow2"));
    std::fs::write(&raw, pattern()).unwrap();
    qemu(&format!("convert -f raw -O qcow2 {how} {} {}", raw.display(), path.display()));
    path
}

#[test]
fn every_kind_reads_and_is_written_as_qemu_does_it() {
    if !have_qemu() {
        return;
    }
    for how in [
        "-o compat=0.10",
        "-o compat=1.1",
        "-o compat=1.1,lazy_refcounts=on",
        "-c",
        "-c -o compat=0.10,cluster_size=4096",
        "-c -o cluster_size=2M",
        "-o cluster_size=512",
        "-o refcount_bits=1",
        "-c -o refcount_bits=64,cluster_size=512",
        "-o preallocation=metadata",
        "-o preallocation=full",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = made(dir.path(), how);
        let mut model = pattern();
        let disk = open(&path);
        assert!(all(&disk) == model, "{how}");
        for (at, len) in [(0, 512), (70_000 & !511, 150_000 & !511), (SIZE - 512, 512), (1 << 20, 1 << 20)] {
            let bytes: Vec<_> = (0..len).map(|i| (i / 100 + at) as u8).collect();
            write(&disk, at as u64, &bytes).unwrap();
            model[at..at + len].copy_from_slice(&bytes);
        }
        assert!(all(&disk) == model, "{how}, written");
        drop(disk);
        check(&path);
        assert!(content(&path, "qcow2") == model, "{how}, as QEMU reads it");
    }
}

#[test]
fn past_the_end_nothing_is_read_or_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    create(&path, &NewImage { size: Some(1 << 20), backing: None }).unwrap();
    let disk = open(&path);
    for (at, len) in [((1 << 20) - 512, 1024), (1 << 20, 512), (u64::MAX - 511, 512), (1 << 60, 512)] {
        assert!(read(&disk, at, len).is_err() && write(&disk, at, &vec![1; len]).is_err(), "{at:#x}");
        assert!(disk.discard(at, len as u64).is_err() && disk.write_zeroes(at, len as u64, true).is_err());
    }
    assert!(all(&disk).iter().all(|b| *b == 0));
}

#[test]
fn backing_files_are_opened_if_the_user_says_so() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let base = made(dir.path(), "-c");
    let base_before = std::fs::read(&base).unwrap();
    let (mid, top) = (dir.path().join("mid.qcow2"), dir.path().join("top.qcow2"));
    let mid_of = |compat| {
        qemu(&format!("create -q -f qcow2 -o compat={compat} -b disk.qcow2 -F qcow2 {} 4M", mid.display()));
    };
    for compat in ["0.10", "1.1"] {
        mid_of(compat);
        let backing = BackingFile { name: "mid.qcow2".into(), format: Some(Format::Qcow2) };
        let size = create(&top, &NewImage { size: None, backing: Some(backing) }).unwrap();
        assert_eq!(size, 4 << 20);
        let said = refused(&top, false, Backing::Refuse);
        let hint = "as qcow2: it refers to another file, \"mid.qcow2\": say backing=allow if you know where the image comes from";
        assert!(said.ends_with(hint), "{said}");

        let disk = try_open(&top, false, Backing::Allow).unwrap();
        let mut model = pattern();
        model.resize(4 << 20, 0);
        assert!(all(&disk) == model);
        write(&disk, 100 * 512, &[9; 512]).unwrap();
        model[100 * 512..][..512].fill(9);
        disk.write_zeroes(1 << 20, 100 << 10, true).unwrap();
        model[1 << 20..][..100 << 10].fill(0);
        disk.write_zeroes(2 << 20, 100 << 10, false).unwrap();
        model[2 << 20..][..100 << 10].fill(0);
        assert!(all(&disk) == model);
        // Others may read what stands behind, and nobody may write it.
        let reader = try_open(&base, true, Backing::Refuse).unwrap();
        assert!(all(&reader) == pattern());
        drop(reader);
        let said = FormatDisk::open(&BlockConfig::new("x", &base), Format::Qcow2, Backing::Refuse);
        let said = said.map(drop).unwrap_err().to_string();
        assert!(said.contains("in use by another program or machine"), "{said}");
        drop(disk);
        check(&top);
        assert!(content(&top, "qcow2") == model);
        std::fs::remove_file(&top).unwrap();
    }
    assert!(std::fs::read(&base).unwrap() == base_before);
}

#[test]
fn chains_that_are_wrong_are_named() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let over = |name: &str, base: &str, format: &str| {
        qemu(&format!("create -q -u -f qcow2 -b {base} {format} {} 1M", at(name).display()));
    };
    over("self.qcow2", "self.qcow2", "-F qcow2");
    over("gone.qcow2", "nowhere.img", "-F raw");
    over("vdi.qcow2", "nowhere.img", "-F vdi");
    let said = |name: &str| refused(&at(name), true, Backing::Allow);
    assert!(said("self.qcow2").ends_with("self.qcow2 as qcow2: it is damaged: it stands behind itself"));
    assert!(said("gone.qcow2").contains("nowhere.img: cannot open for reading: No such file"));
    assert!(
        said("vdi.qcow2")
            .ends_with("its backing file \"nowhere.img\" is \"vdi\": only raw and qcow2 are known")
    );
    // Without a format, as old ones were made.
    std::fs::write(at("base.img"), [0; 4096]).unwrap();
    over("old.qcow2", "base.img", "-F raw");
    let mut bytes = std::fs::read(at("old.qcow2")).unwrap();
    let extension = bytes.windows(4).position(|w| w == [0xe2, 0x79, 0x2a, 0xca]).unwrap();
    bytes[extension] = 1;
    std::fs::write(at("old.qcow2"), bytes).unwrap();
    assert!(said("old.qcow2").contains("does not say in which format its backing file \"base.img\" is"));
    // One behind the other, too many.
    over("c0.qcow2", "base.img", "-F raw");
    for n in 1..20 {
        over(&format!("c{n}.qcow2"), &format!("c{}.qcow2", n - 1), "-F qcow2");
    }
    assert!(said("c19.qcow2").ends_with("more than 16 files stand behind each other"));
    assert!(try_open(&at("c12.qcow2"), true, Backing::Allow).is_ok());
}

#[test]
fn what_is_not_supported_is_refused_and_not_touched() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    let secret = "--object secret,id=s,data=abc";
    for (options, what) in [
        ("-o extended_l2=on", "it uses extended L2 entries (subclusters), which is not supported"),
        ("-o compression_type=zstd", "it uses a compression other than zlib, which is not supported"),
        ("-o data_file=data.raw", "it uses an external data file, which is not supported"),
        ("-o encrypt.format=luks,encrypt.key-secret=s", "it uses encryption, which is not supported"),
    ] {
        let options = options.replace("data.raw", &dir.path().join("data.raw").display().to_string());
        qemu(&format!("create -q -f qcow2 {secret} {options} {} 1M", path.display()));
        let before = std::fs::read(&path).unwrap();
        for read_only in [false, true] {
            let said = refused(&path, read_only, Backing::Allow);
            assert!(said.ends_with(&format!("disk.qcow2 as qcow2: {what}")), "{said}");
        }
        assert!(std::fs::read(&path).unwrap() == before);
        let info = inspect(&path, Format::Qcow2).unwrap().qcow2.unwrap();
        assert_eq!(info.problem.as_deref(), Some(what));
    }
    // As a crash of QEMU's leaves it, with lazy refcounts.
    qemu(&format!("create -q -f qcow2 -o lazy_refcounts=on {} 1M", path.display()));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[79] |= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(refused(&path, false, Backing::Refuse).ends_with("repair it first, with qemu-img check -r all"));
    qemu(&format!("check -q -r all {}", path.display()));
    assert!(try_open(&path, false, Backing::Refuse).is_ok());
    std::fs::write(&path, [0; 4096]).unwrap();
    assert!(refused(&path, false, Backing::Refuse).contains("as qcow2: no such image"));
}

#[test]
fn it_grows_and_what_is_new_is_zeros() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let base = made(dir.path(), "");
    for (over, size) in [(false, "1M"), (true, "1M"), (true, "1000K")] {
        let path = dir.path().join("small.qcow2");
        let backing = if over { "-b disk.qcow2 -F qcow2" } else { "" };
        qemu(&format!("create -q -f qcow2 -o cluster_size=4096 {backing} {} {size}", path.display()));
        let disk = open(&path);
        let mut model = all(&disk);
        assert_eq!(model.iter().all(|b| *b == 0), !over);
        assert!(disk.grow(512).is_err() && disk.grow(100 << 40).is_err());
        for size in [2 << 20, 5 << 20] {
            disk.grow(size).unwrap();
            model.resize(size as usize, 0);
            assert!(all(&disk) == model, "{over} {size}");
            write(&disk, size - 5120, &[7; 5120]).unwrap();
            model[size as usize - 5120..].fill(7);
        }
        drop(disk);
        check(&path);
        assert!(content(&path, "qcow2") == model);
        std::fs::remove_file(&path).unwrap();
    }
    drop(base);
}

#[test]
fn its_own_snapshots_stay_as_they_are() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = made(dir.path(), "");
    qemu(&format!("snapshot -c before {}", path.display()));
    let disk = open(&path);
    write(&disk, 0, &vec![1; 200 << 10]).unwrap();
    disk.write_zeroes(1 << 20, 300 << 10, true).unwrap();
    disk.discard(2 << 20, 300 << 10).unwrap();
    disk.flush().unwrap();
    assert!(disk.grow(8 << 20).unwrap_err().to_string().contains("snapshots of its own"));
    let now = all(&disk);
    drop(disk);
    check(&path);
    assert!(content(&path, "qcow2") == now);
    let raw = dir.path().join("old.raw");
    qemu(&format!("convert -l before -f qcow2 -O raw {} {}", path.display(), raw.display()));
    assert!(std::fs::read(raw).unwrap() == pattern());
}

#[test]
fn room_is_given_back() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("disk.qcow2");
    create(&path, &NewImage { size: Some(64 << 20), backing: None }).unwrap();
    let disk = open(&path);
    let room = || {
        disk.flush().unwrap();
        std::fs::metadata(&path).unwrap().blocks() * 512
    };
    let empty = room();
    for at in 0..32u64 {
        write(&disk, at << 20, &vec![3; 1 << 20]).unwrap();
    }
    let full = room();
    assert!(full > 32 << 20, "{full}");
    disk.discard(1 << 20, 16 << 20).unwrap();
    let less = room();
    assert!(less <= full - (15 << 20), "{full} {less}");
    disk.write_zeroes(17 << 20, 15 << 20, true).unwrap();
    disk.write_zeroes(0, 1 << 20, true).unwrap();
    let least = room();
    assert!(least <= empty + (1 << 20), "{empty} {least}");
    // A disk that was never written takes nothing for being discarded.
    disk.discard(32 << 20, 32 << 20).unwrap();
    disk.write_zeroes(32 << 20, 32 << 20, false).unwrap();
    assert!(room() <= least);
}

#[test]
fn a_new_image_is_one_and_nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    let new = |size| NewImage { size, backing: None };
    let said = |new: &NewImage| create(&path, new).unwrap_err().to_string();
    assert!(said(&new(None)).ends_with("as qcow2: it needs a size, or a backing file that has one"));
    assert!(said(&new(Some(1000))).ends_with("must be a multiple of 512 bytes"));
    assert!(said(&new(Some(1 << 60))).ends_with("too large: a disk has at most 2 PiB"));
    let backing = BackingFile { name: "none".into(), format: None };
    assert!(said(&NewImage { size: Some(512), backing: Some(backing) }).contains("none: cannot open"));
    assert!(!path.exists());
    assert_eq!(create(&path, &new(Some(5 << 40))).unwrap(), 5 << 40);
    assert!(said(&new(Some(512))).contains("cannot make the file: File exists"));
    let info = inspect(&path, Format::Qcow2).unwrap();
    assert_eq!(info.size, 5 << 40);
    assert_eq!(looks_like(&path), Some(Format::Qcow2));
    if have_qemu() {
        check(&path);
    }
}

#[test]
fn vmdk_is_read_and_its_files_must_be_its_own() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (raw, path) = (dir.path().join("from.raw"), dir.path().join("disk.vmdk"));
    std::fs::write(&raw, pattern()).unwrap();
    let convert = |how: &str| {
        qemu(&format!("convert -f raw -O vmdk -o subformat={how} {} {}", raw.display(), path.display()));
    };
    let open = |read_only, backing| {
        let config = BlockConfig { read_only, ..BlockConfig::new("root", &path) };
        FormatDisk::open(&config, Format::Vmdk, backing)
    };
    let said = |backing| open(true, backing).map(drop).unwrap_err().to_string();
    for how in ["monolithicFlat", "twoGbMaxExtentFlat"] {
        convert(how);
        assert!(open(false, Backing::Allow).map(drop).unwrap_err().to_string().ends_with("say readonly"));
        let disk = open(true, Backing::Refuse).unwrap();
        assert!(all(&disk) == pattern(), "{how}");
        assert!(disk.grow(8 << 20).is_err() && write(&disk, 0, &[0; 512]).is_err());
        assert_eq!(inspect(&path, Format::Vmdk).unwrap().size, SIZE as u64);
    }
    convert("monolithicFlat");
    let text = std::fs::read_to_string(&path).unwrap();
    for other in ["from.raw", "/etc/passwd", "../disk-flat.vmdk", "disk-flat.vmdk/../from.raw"] {
        std::fs::write(&path, text.replace("disk-flat.vmdk", other)).unwrap();
        let said = said(Backing::Refuse);
        assert!(said.contains("it refers to another file") && said.contains("say backing=allow"), "{said}");
    }
    std::fs::write(&path, text.replace("disk-flat.vmdk", "from.raw")).unwrap();
    assert!(all(&open(true, Backing::Allow).unwrap()) == pattern());
    for how in ["monolithicSparse", "streamOptimized"] {
        convert(how);
        assert!(said(Backing::Refuse).ends_with("it uses sparse extents, which is not supported"));
    }
}
