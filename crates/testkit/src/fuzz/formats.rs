//! Images as somebody else made them.

use super::input::Input;
use drystone_block::{Image, Pieces};
use drystone_block_formats::{Backing, Format, FormatDisk};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use vm_memory::VolatileSlice;

/// More of an image says nothing new.
const MOST: usize = 64 << 10;
/// How much is read of a disk, which may be of any size.
const LOOK: u64 = 128 << 10;
/// Bytes at the end that say what is done to the disk.
const ORDERS: usize = 32;

/// Any bytes as a qcow2 image, of which the last few say what a guest does with the disk.
///
/// # Panics
/// When a disk is larger than it says, or something under it has panicked, which the disk survives.
pub fn qcow2(data: &[u8]) {
    let (image, orders) = data.split_at(data.len().saturating_sub(ORDERS));
    let image = image.get(..MOST).unwrap_or(image);
    if let Ok(disk) = open(image, Format::Qcow2, true) {
        look(&disk);
        assert!(write(&disk, 0, &mut [1; 512]).is_err(), "it was opened for reading");
    }
    if let Ok(disk) = open(image, Format::Qcow2, false) {
        use_it(&disk, &mut Input::new(orders));
        look(&disk);
    }
}

/// Any bytes as a VMDK image, whose extents are not there.
///
/// # Panics
/// As [`qcow2`].
pub fn vmdk(data: &[u8]) {
    assert!(open(data, Format::Vmdk, false).is_err(), "it can only be read");
    if let Ok(disk) = open(data, Format::Vmdk, true) {
        look(&disk);
    }
}

fn open(image: &[u8], format: Format, read_only: bool) -> Result<FormatDisk, String> {
    let file = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
    let mut file = File::from(file);
    file.write_all(image).expect("memory");
    let opened = FormatDisk::on_file(file, Path::new("/nowhere/disk"), format, read_only, Backing::Refuse);
    let error = match opened {
        Ok(disk) => return Ok(disk),
        Err(error) => error.to_string(),
    };
    assert!(!error.is_empty() && !error.contains('\n'), "{error:?}");
    Err(error)
}

fn read(disk: &FormatDisk, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0xee; len];
    disk.read(offset, &mut Pieces::from_slices(&[VolatileSlice::from(&mut *bytes)]))?;
    Ok(bytes)
}

fn write(disk: &FormatDisk, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
    disk.write(offset, &mut Pieces::from_slices(&[VolatileSlice::from(bytes)]))
}

/// Reads its beginning, its end, and something in between.
fn look(disk: &FormatDisk) {
    let size = disk.size().expect("it is open");
    for at in [0, size / 2, size.saturating_sub(LOOK)] {
        let at = at - at % 512;
        survived(read(disk, at, (size - at).min(LOOK) as usize));
    }
    assert!(read(disk, size - size % 512, 1024).is_err(), "past the end");
}

fn use_it(disk: &FormatDisk, input: &mut Input<'_>) {
    let sectors = disk.size().expect("it is open") / 512;
    while !input.is_empty() {
        let order = input.u8();
        let at = (u64::from(input.u16()) * sectors / (1 << 16)).min(sectors - 1);
        let count = u64::from(order >> 3).min(sectors - at).max(1);
        let (at, len) = (at * 512, count * 512);
        survived(match order % 8 {
            0..=2 => write(disk, at, &mut vec![order; len as usize]),
            3 => disk.discard(at, len),
            4 => disk.write_zeroes(at, len, order > 127),
            5 => disk.settle(),
            6 => disk.flush(),
            _ => disk.grow((sectors + count) * 512).map_err(io::Error::other),
        });
    }
}

/// Errors are fine.
fn survived<T>(result: io::Result<T>) {
    if let Err(error) = result {
        assert!(!error.to_string().contains("library failed"), "{error}");
    }
}
