//! Encodes the AML of the slots, which is the same in every machine.

#[path = "src/hotplug/slots.rs"]
mod slots;

use std::path::Path;
use std::{env, fs, io};

/// The slots of a bus that a device can be plugged into: the first is the host bridge's own.
const PLUGGABLE: std::ops::Range<u8> = 1..32;

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/hotplug/slots.rs");
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("no OUT_DIR: this is run by cargo"))?;
    fs::write(Path::new(&out).join("slots.aml"), slots::aml(PLUGGABLE))
}
