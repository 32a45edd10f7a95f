//! Replays the fuzzer's corpus, and changes to it: images as somebody else made them. What qemu-img takes as well reads the same.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use common::{Dice, have_qemu, try_all, try_qemu};
use drystone_block::Image;
use drystone_block_formats::{Backing, Format, FormatDisk};
use drystone_testkit::fuzz;
use std::path::{Path, PathBuf};

#[test]
fn the_corpus_of_qcow2() {
    assert!(fuzz::replay("qcow2", fuzz::qcow2) > 0, "the corpus is empty");
}

#[test]
fn the_corpus_of_vmdk() {
    assert!(fuzz::replay("vmdk", fuzz::vmdk) > 0, "the corpus is empty");
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// How many changes of each file are tried.
fn changes() -> u64 {
    if std::env::var_os("DRYSTONE_FULL").is_some() {
        return 100;
    }
    eprintln!("NOT RUN: 100 changes of each file of the corpus, instead of 15; DRYSTONE_FULL=1 runs it");
    15
}

/// Changes where they matter: the header and the tables are at the beginning, and entries are made of eight bytes.
fn changed(image: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut image = image.to_vec();
    for _ in 0..=dice.below(3) {
        let reach = if dice.below(2) == 0 { 120 } else { image.len().min(4096) };
        let at = dice.below(reach as u64) as usize;
        match dice.below(4) {
            0 => image[at] ^= 1 << dice.below(8),
            1 => image[at] = dice.below(256) as u8,
            2 => {
                let from = dice.below(image.len() as u64 / 8 - 1) as usize * 8;
                let to = at & !7;
                image.copy_within(from..from + 8, to.min(from));
            }
            _ => image.truncate(image.len() - dice.below(image.len() as u64 / 4) as usize),
        }
    }
    image
}

/// As the fuzzer does it, for as long as a test may take.
#[test]
fn changes_to_the_corpus_are_survived() {
    let mut dice = Dice::new(11);
    for (_, image) in corpus("qcow2") {
        for _ in 0..changes() * 4 {
            let mut image = changed(&image, &mut dice);
            image.extend((0..32).map(|_| dice.below(256) as u8));
            let name = std::env::temp_dir().join("formats-broke.qcow2");
            std::fs::write(&name, &image).unwrap();
            let body = std::panic::catch_unwind(|| fuzz::qcow2(&image));
            assert!(body.is_ok(), "{} broke it", name.display());
        }
    }
    for (_, text) in corpus("vmdk") {
        (0..changes()).for_each(|_| fuzz::vmdk(&changed(&text, &mut dice)));
    }
}

/// What qemu-img reads; `None` if it does not take the image.
fn as_qemu_reads(path: &Path) -> Option<Vec<u8>> {
    let raw = path.with_extension("raw");
    let _ = std::fs::remove_file(&raw);
    let command = format!("convert -f qcow2 -O raw {} {}", path.display(), raw.display());
    try_qemu(&command).status.success().then(|| std::fs::read(raw).unwrap())
}

#[test]
fn what_qemu_takes_as_well_reads_the_same() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let (mut both, mut ours, mut dice) = (0, 0, Dice::new(7));
    for (name, image) in corpus("qcow2") {
        let few = (0..changes()).map(|_| changed(&image, &mut dice)).collect::<Vec<_>>();
        for (n, image) in std::iter::once(image.clone()).chain(few).enumerate() {
            std::fs::write(&path, &image).unwrap();
            let file = std::fs::File::open(&path).unwrap();
            let Ok(disk) = FormatDisk::on_file(file, &path, Format::Qcow2, true, Backing::Refuse) else {
                continue;
            };
            ours += 1;
            if disk.size().unwrap() > 8 << 20 {
                continue;
            }
            let Some(theirs) = as_qemu_reads(&path) else { continue };
            // An entry that cannot be is an error of the host's here.
            let Ok(mut read) = try_all(&disk) else { continue };
            // Guests are given whole sectors, and so they are by QEMU.
            read.truncate(read.len() & !511);
            both += 1;
            let keep = std::env::temp_dir().join("formats-differs.qcow2");
            if read != theirs {
                std::fs::copy(&path, &keep).unwrap();
            }
            assert!(read == theirs, "{} {n} reads otherwise: {}", name.display(), keep.display());
        }
    }
    println!("{ours} were taken, {both} by qemu-img as well");
    assert!(both > 30, "{ours} {both}");
}
