//! A virtual machine monitor for Linux guests, composed of the drystone crates.
