//! What takes raw system calls: the only `unsafe` of this crate.
#![allow(unsafe_code)]

mod lock;
mod vectored;

pub(crate) use lock::{Lock, lock};
pub(crate) use vectored::{read_at, write_at};
