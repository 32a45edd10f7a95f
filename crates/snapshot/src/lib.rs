//! A virtual machine in a directory.
//!
//! [`write()`] puts a machine that stands still into a directory: a readable [`Manifest`], the state of its parts, and its memory in
//! a sparse file. [`Snapshot::open`] reads it back, and refuses what is torn, foreign, newer or changed before anything is made of
//! it. What the parts are, and how a machine is built from them, is the VMM's business.
#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod encoding;
mod error;
mod manifest;
mod memory;
mod open;
mod outside;
mod place;
mod progress;
mod write;

pub use encoding::{decode_parts, encode_parts};
pub use error::{OpenError, WriteError};
pub use manifest::{FileEntry, Manifest, ManifestError, MemoryEntry, PartEntry};
pub use memory::{BLOCK, MapError, MemoryMap, MemoryRange};
pub use open::Snapshot;
pub use outside::{Changed, Outside};
pub use progress::Progress;
pub use write::{About, Content, Options, write};
