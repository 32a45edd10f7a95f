//! Guest RAM: where it lies in the guest-physical address space, what backs it, and what was written to it.
//!
//! [`Layout`] decides the addresses, [`GuestRam`] maps host memory there and hands out the `vm-memory` view that
//! devices and loaders use. [`Mem`] is the one type parameter of every device in the workspace, and [`Backed`] is
//! how a hypervisor maps a region without trusting the life time of a raw pointer.
#![doc = include_str!("../README.md")]

mod backed;
mod bitmap;
mod layout;
mod mem;
mod ram;
mod tracked;
mod vectored;

pub use backed::Backed;
pub use bitmap::DirtyBitmap;
pub use layout::{Layout, LayoutError, RamRange, Window};
pub use mem::Mem;
pub use ram::{Backing, DirtyPages, GuestRam, HugePages, MemoryError, RamConfig, RamMap, RamRegion, RamView};
pub use tracked::Tracked;
pub use vectored::{Gather, MAX_PIECES, Scatter};
