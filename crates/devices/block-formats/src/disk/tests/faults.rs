use super::{Dice, have_qemu, qemu, read, watched, write};
use crate::{Backing, Format, FormatDisk};
use drystone_block::Image;
use std::path::Path;

const SECTOR: usize = 512;
const SECTORS: usize = (2 << 20) / SECTOR;

fn open(path: &Path) -> FormatDisk {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    FormatDisk::on_file(file, path, Format::Qcow2, false, Backing::Refuse).unwrap()
}

fn full_of(bytes: &[u8]) -> u8 {
    if bytes.iter().all(|b| *b == bytes[0]) { bytes[0] } else { 0xff }
}

/// What a sector may hold.
type May = Vec<u8>;

/// One request; what it fails at may be as it was, or not. Says whether it went well.
fn act(disk: &FormatDisk, may: &mut [May], dice: &mut Dice, n: usize) -> bool {
    let first = dice.below(SECTORS as u64) as usize;
    let count = 1 + dice.below((SECTORS - first).min(30) as u64) as usize;
    let (at, len) = ((first * SECTOR) as u64, (count * SECTOR) as u64);
    let own = &mut may[first..first + count];
    let (done, new) = match dice.below(8) {
        0..=3 => {
            let byte = 1 + (n % 250) as u8;
            (write(disk, at, &mut vec![byte; count * SECTOR]), Some(byte))
        }
        4 => (disk.write_zeroes(at, len, n.is_multiple_of(2)), Some(0)),
        5 => {
            own.iter_mut().for_each(|may| may.push(0));
            (disk.discard(at, len), None)
        }
        6 => (disk.flush(), None),
        _ => {
            let found = read(disk, at, count * SECTOR);
            for (bytes, may) in found.iter().flat_map(|f| f.chunks(SECTOR)).zip(&*own) {
                assert!(may.contains(&full_of(bytes)), "{} of {may:?}", full_of(bytes));
            }
            (found.map(drop), None)
        }
    };
    match (new, done.is_ok()) {
        (Some(new), true) => own.iter_mut().for_each(|may| *may = vec![new]),
        (Some(new), false) => own.iter_mut().for_each(|may| may.push(new)),
        (None, _) => {}
    }
    done.is_ok()
}

fn is_whole(path: &Path, may: &[May], context: &str) {
    let (code, said) = qemu(&format!("check -f qcow2 {}", path.display()));
    assert!(code == 0 || code == 3, "{context}: {said}");
    let raw = path.with_extension("raw");
    let (code, said) = qemu(&format!("convert -f qcow2 -O raw {} {}", path.display(), raw.display()));
    assert_eq!(code, 0, "{context}: {said}");
    for (at, (found, may)) in std::fs::read(raw).unwrap().chunks(SECTOR).zip(may).enumerate() {
        assert!(may.contains(&full_of(found)), "{context}: sector {at} is {} of {may:?}", full_of(found));
    }
}

/// Some calls to the host fail, anywhere in what is done for a request; afterwards it works again.
#[test]
fn a_host_that_fails_and_works_again_costs_nothing_that_went_well() {
    if !have_qemu() {
        return;
    }
    let mut failed = 0;
    for seed in 0..12 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.qcow2");
        let cluster = [512, 4096, 65536][seed as usize % 3];
        let (code, said) =
            qemu(&format!("create -q -f qcow2 -o cluster_size={cluster} {} 2M", path.display()));
        assert_eq!(code, 0, "{said}");
        let (disk, mut dice, mut may) = (open(&path), Dice(seed), vec![vec![0]; SECTORS]);
        for n in 0..300 {
            if n % 5 == 0 {
                watched(&disk, |watch| watch.fail_after(dice.below(8), libc_enospc()));
            }
            failed += u64::from(!act(&disk, &mut may, &mut dice, n));
            watched(&disk, |watch| watch.fail_no_more());
        }
        let context = format!("seed {seed}, clusters of {cluster}");
        // What could not be synced is lost for ever; then only what the file has counts.
        let lost = disk.flush().is_err();
        disk.settle().unwrap();
        drop(disk);
        is_whole(&path, &may, &context);
        let again = open(&path);
        (0..100).for_each(|n| assert!(act(&again, &mut may, &mut dice, n), "{context} {lost}"));
        drop(again);
        is_whole(&path, &may, &context);
    }
    assert!(failed > 100, "{failed}");
}

fn libc_enospc() -> i32 {
    rustix::io::Errno::NOSPC.raw_os_error()
}

/// A flush that failed stays failed: the host says so once.
#[test]
fn a_flush_that_failed_stays_failed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    crate::create(&path, &crate::NewImage { size: Some(1 << 20), backing: None }).unwrap();
    let disk = open(&path);
    disk.flush().unwrap();
    disk.open.load_full().unwrap().shared.lose();
    for _ in 0..2 {
        assert!(disk.flush().unwrap_err().to_string().contains("may be lost"));
    }
    disk.close();
    assert_eq!(disk.flush().unwrap_err().to_string(), "the disk was pulled");
    assert_eq!(disk.size().unwrap_err().to_string(), "the disk was pulled");
}
