//! A virtio entropy device (virtio 1.3, 5.4): fills the driver's buffers with random bytes.
//!
//! The bytes come from whatever [`Read`](std::io::Read) it is given, `/dev/urandom` if nothing else is said. It has one
//! queue, no features and no configuration space.
#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod config;
mod counters;
mod device;
mod handle;
mod state;

pub use config::{RngConfig, RngError};
pub use counters::RngCounters;
pub use device::Rng;
pub use handle::RngHandle;
pub use state::RngState;
