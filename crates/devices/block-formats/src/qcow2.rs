//! What is looked at of a qcow2 image before imago has it: it checks less than an image from somewhere needs.
//!
//! Source: docs/interop/qcow2.txt of QEMU.
mod counts;
mod header;
mod layout;
mod tables;

pub(crate) use counts::Place;
pub(crate) use header::{Header, MAGIC, MAX_L1};
pub(crate) use layout::{Kind, Layout};
pub(crate) use tables::{OFFSET, Tables, first_level};
