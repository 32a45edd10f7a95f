//! What is left of an image whose process is killed, or whose host loses its power, at any moment; and a host that fails.
mod crash;
mod faults;
mod watch;

pub(crate) use watch::Watch;

use super::*;
use std::process::Command;
use vm_memory::VolatileSlice;

fn have_qemu() -> bool {
    let found = Command::new("qemu-img").arg("--version").output();
    if let Err(e) = &found {
        eprintln!("NOT RUN: there is no qemu-img on this machine: {e}");
    }
    found.is_ok()
}

/// Runs qemu-img, and gives its exit code and what it said.
fn qemu(words: &str) -> (i32, String) {
    let output = Command::new("qemu-img").args(words.split_whitespace()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&said).into_owned())
}

fn write(disk: &FormatDisk, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
    disk.write(offset, &mut Pieces::from_slices(&[VolatileSlice::from(bytes)]))
}

fn read(disk: &FormatDisk, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0xee; len];
    disk.read(offset, &mut Pieces::from_slices(&[VolatileSlice::from(&mut *bytes)]))?;
    Ok(bytes)
}

/// Numbers that look random and are the same each time: SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % most
    }
}

/// The watch on the file of a disk.
fn watched<T>(disk: &FormatDisk, look: impl FnOnce(&Watch) -> T) -> T {
    look(&disk.open.load_full().unwrap().shared.watch)
}
