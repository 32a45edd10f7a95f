//! What takes raw system calls: the only `unsafe` of this crate, but for the promises of the engine that uses io_uring.
#![allow(unsafe_code)]

mod lock;
mod pieces;
mod ring;
mod vectored;

pub(crate) use lock::{Lock, lock};
pub use pieces::Pieces;
pub(crate) use ring::{Ring, register, unregister};
pub(crate) use vectored::{read_at, write_at};
