//! Images under requests from several threads at once, held against a model and against qemu-img.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use common::{Dice, all, check, content, have_qemu, open, qemu, read, write};
use drystone_block::Image;
use std::path::{Path, PathBuf};

const SECTOR: usize = 512;
const THREADS: usize = 4;

/// What each thread may touch: pieces of one and a half clusters by turns, so that most clusters are two threads'.
#[derive(Clone, Copy)]
struct Share {
    thread: usize,
    piece: usize,
    size: usize,
}

impl Share {
    /// A range within a piece of its own.
    fn range(&self, dice: &mut Dice) -> (usize, usize) {
        let pieces = self.size / (self.piece * THREADS);
        let piece = (dice.below(pieces as u64) as usize * THREADS + self.thread) * self.piece;
        let sectors = (self.piece / SECTOR) as u64;
        let (first, len) = match dice.below(3) {
            0 => (0, sectors),
            _ => {
                let first = dice.below(sectors);
                (first, 1 + dice.below(sectors - first))
            }
        };
        (piece + first as usize * SECTOR, len as usize * SECTOR)
    }
}

fn act(disk: &dyn Image, model: &mut [u8], share: Share, dice: &mut Dice) {
    let (at, len) = share.range(dice);
    let own = &mut model[at..at + len];
    match dice.below(24) {
        0..=9 => {
            let byte = dice.below(255) as u8 + 1;
            own.iter_mut().enumerate().for_each(|(i, b)| *b = byte.wrapping_add((i / SECTOR) as u8));
            write(disk, at as u64, own).unwrap();
        }
        10..=16 => assert!(read(disk, at as u64, len).unwrap() == own, "{at:#x} {len:#x}"),
        kind @ 17..=19 => {
            disk.write_zeroes(at as u64, len as u64, kind == 17).unwrap();
            own.fill(0);
        }
        20..=22 => {
            disk.discard(at as u64, len as u64).unwrap();
            let now = read(disk, at as u64, len).unwrap();
            for (now, old) in now.chunks(SECTOR).zip(own.chunks(SECTOR)) {
                assert!(now == old || now.iter().all(|b| *b == 0), "neither zeros nor what was there");
            }
            own.copy_from_slice(&now);
        }
        _ => disk.flush().unwrap(),
    }
}

/// Each thread does what it does with a copy of the model, of which its share is taken over at the end.
fn round(disk: &dyn Image, model: &mut [u8], piece: usize, seed: u64, steps: usize) {
    let size = model.len() - model.len() % (piece * THREADS);
    let before = model.to_vec();
    let after: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let run = |thread| {
            let mut own = before.clone();
            let share = Share { thread, piece, size };
            scope.spawn(move || {
                let mut dice = Dice::new(seed * 31 + thread as u64 + 1);
                (0..steps).for_each(|_| act(disk, &mut own, share, &mut dice));
                own
            })
        };
        let running: Vec<_> = (0..THREADS).map(run).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (n, to) in model[..size].chunks_mut(piece).enumerate() {
        let at = n * piece;
        to.copy_from_slice(&after[n % THREADS][at..at + to.len()]);
    }
}

fn run(path: &Path, cluster: usize, rounds: u64, steps: usize) {
    let mut model = content(path, "qcow2");
    for seed in 0..rounds {
        let disk = open(path);
        assert_eq!(disk.size().unwrap(), model.len() as u64);
        round(&disk, &mut model, cluster * 3 / 2, seed, steps);
        // As at a pause: whole, and still open.
        disk.settle().unwrap();
        let copy = path.with_extension("copy");
        std::fs::copy(path, &copy).unwrap();
        check(&copy);
        std::fs::remove_file(copy).unwrap();
        round(&disk, &mut model, cluster * 3 / 2, seed + 1000, steps);
        assert!(all(&disk) == model, "as it is read");
        drop(disk);
        check(path);
        assert!(content(path, "qcow2") == model, "as QEMU reads it");
    }
}

fn image(dir: &Path, options: &str, size: &str) -> PathBuf {
    let path = dir.join("disk.qcow2");
    qemu(&format!("create -q -f qcow2 -o {options} {} {size}", path.display()));
    path
}

#[test]
fn clusters_of_every_kind_of_size() {
    if !have_qemu() {
        return;
    }
    for (cluster, options, size, steps) in [
        (512, "cluster_size=512,refcount_bits=1", "3M", 400),
        (4096, "cluster_size=4096,refcount_bits=64", "8M", 400),
        (65536, "cluster_size=65536", "32M", 150),
        (65536, "compat=0.10", "32M", 150),
        (2 << 20, "cluster_size=2M,refcount_bits=8", "52M", 20),
    ] {
        let dir = tempfile::tempdir().unwrap();
        run(&image(dir.path(), options, size), cluster, 2, steps);
    }
}
