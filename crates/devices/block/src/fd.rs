//! What takes raw system calls: the only `unsafe` of this crate.
#![allow(unsafe_code)]

mod lock;
mod pieces;
mod vectored;

pub(crate) use lock::{Lock, lock};
pub use pieces::Pieces;
pub(crate) use vectored::{read_at, write_at};
