//! A virtual machine monitor for Linux guests, composed of the drystone crates.
#![forbid(unsafe_code)]

pub mod config;
pub mod log;
pub mod registry;
