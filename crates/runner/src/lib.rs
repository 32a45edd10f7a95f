//! Threads that run the workers of virtio devices, on event-manager.
//!
//! A [`Runner`] is one or more threads, each with one event loop. A device's lanes are attached to it, round robin; a lane
//! hears its doorbells ([`Doorbells`], eventfds that KVM, the core and tests write) and its worker's own sources. It is
//! the only crate that knows event-manager, and nobody is forced to use it: whoever calls `VirtioCore::kick` and
//! `VirtioCore::ready` runs a device as well.
#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod doorbells;
mod error;
mod lane;
mod runner;
mod thread;

pub use doorbells::Doorbells;
pub use error::RunnerError;
pub use runner::{Attachment, Runner};
