//! Test support: tiny guests, conformance suites for hypervisors, fuzz bodies. Never a dependency of anything but tests,
//! so it panics where a test would.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]
#![doc = include_str!("../README.md")]

pub mod aml;
mod asm;
pub mod block;
pub mod conformance;
pub mod fuzz;
pub mod guest;
pub mod hosts;
mod io;
pub mod net;
pub mod pci;
mod tiny;
pub mod virtio;
mod written;

pub use asm::Asm;
pub use guest::Guest;
pub use io::{Access, IoLog};
pub use tiny::{Backend, RAM, TinyVm, run_through_io};
pub use written::as_written;
