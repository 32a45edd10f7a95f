//! The emulated machine.

mod boot_image;
mod command;
mod process;
mod qmp;
mod snapshot;

pub(crate) use command::{DISK_SIZE, Shape};
pub(crate) use process::{Event, Machine};
pub(crate) use snapshot::Snapshot;
