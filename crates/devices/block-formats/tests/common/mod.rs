//! Images made and checked by qemu-img, and disks read and written as an engine does it.
#![allow(dead_code)] // each test uses some
use drystone_block::{BlockConfig, Image, Pieces};
use drystone_block_formats::{Backing, Format, FormatDisk, FormatError};
use std::io;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use vm_memory::VolatileSlice;

/// Whether these tests can run here; says so if not.
pub fn have_qemu() -> bool {
    let found = Command::new("qemu-img").arg("--version").output();
    if let Err(e) = &found {
        eprintln!("NOT RUN: there is no qemu-img on this machine: {e}");
    }
    found.is_ok()
}

/// Runs qemu-img; words are separated by spaces.
pub fn try_qemu(words: &str) -> Output {
    Command::new("qemu-img").args(words.split_whitespace()).output().expect("qemu-img")
}

/// The same, of which nothing but success will do.
pub fn qemu(words: &str) -> String {
    let output = try_qemu(words);
    assert!(output.status.success(), "qemu-img {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs qemu-io commands on an image.
pub fn qemu_io(path: &Path, commands: &[String]) {
    let mut io = Command::new("qemu-io");
    io.args(["-f", "qcow2"]).arg(path);
    commands.iter().for_each(|c| {
        io.args(["-c", c]);
    });
    let output = io.output().expect("qemu-io");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("failed"), "{said}");
}

/// That an image is whole: neither damaged nor with clusters that nobody has.
pub fn check(path: &Path) {
    let output = try_qemu(&format!("check -f qcow2 {}", path.display()));
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", path.display());
}

/// What qemu-img reads from an image.
pub fn content(path: &Path, format: &str) -> Vec<u8> {
    let raw = path.with_extension("content");
    qemu(&format!("convert -f {format} -O raw {} {}", path.display(), raw.display()));
    let bytes = std::fs::read(&raw).unwrap();
    std::fs::remove_file(raw).unwrap();
    bytes
}

pub fn config(path: &Path) -> BlockConfig {
    BlockConfig::new("root", path)
}

/// Opens an image. A child that another test has just started has our locks for a moment.
pub fn try_open(path: &Path, read_only: bool, backing: Backing) -> Result<FormatDisk, FormatError> {
    let config = BlockConfig { read_only, ..config(path) };
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match FormatDisk::open(&config, Format::Qcow2, backing) {
            Err(FormatError::File(drystone_block::BlockError::Locked { .. })) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            opened => return opened,
        }
    }
}

pub fn open(path: &Path) -> FormatDisk {
    try_open(path, false, Backing::Allow).unwrap()
}

/// Like `open`, for a test that says in what way it failed.
pub fn refused(path: &Path, read_only: bool, backing: Backing) -> String {
    try_open(path, read_only, backing).map(|_| ()).unwrap_err().to_string()
}

/// Reads in pieces of odd lengths, as guests' memory may be.
pub fn read(disk: &dyn Image, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0xee; len];
    let slices: Vec<_> = bytes.chunks_mut(700).map(VolatileSlice::from).collect();
    disk.read(offset, &mut Pieces::from_slices(&slices))?;
    drop(slices);
    Ok(bytes)
}

pub fn write(disk: &dyn Image, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut bytes = bytes.to_vec();
    let slices: Vec<_> = bytes.chunks_mut(1300).map(VolatileSlice::from).collect();
    disk.write(offset, &mut Pieces::from_slices(&slices))
}

pub fn all(disk: &dyn Image) -> Vec<u8> {
    try_all(disk).unwrap()
}

pub fn try_all(disk: &dyn Image) -> io::Result<Vec<u8>> {
    let size = disk.size()?;
    let piece = |at| read(disk, at, (size - at).min(1 << 20) as usize);
    Ok((0..size).step_by(1 << 20).map(piece).collect::<io::Result<Vec<_>>>()?.concat())
}

/// Numbers that look random and are the same each time: xorshift64*.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % most
    }
}
