//! PCI for virtual machines: what a guest finds at its configuration space, and how devices get there.
//!
//! [`ConfigSpace`] is a function's registers; [`Function`] is a device in a slot; [`Segment`] is a bus of 32 slots, which
//! a guest reads and writes through ECAM and, if asked for, through [`ConfigPorts`]. The guest moves BARs while it runs: a
//! write that does so returns [`Effect::Relocate`](drystone_bus::Effect::Relocate), and [`Segment::relocate`] puts the
//! ranges on the bus where they now belong.
#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod aml;
mod attachment;
mod bar;
mod bridge;
mod config;
mod function;
mod hotplug;
mod msix;
mod ports;
mod segment;
mod windows;

pub use aml::mcfg;
pub use attachment::Attachment;
pub use bar::{BARS, Bar, BarError, BarKind, Decoded};
pub use bridge::{HostBridge, HostBridgeState};
pub use config::{CONFIG_SIZE, CapabilityError, Class, Config, ConfigSpace, ConfigState, Identity};
pub use function::{Function, read_bar, write_bar};
pub use hotplug::{EjectError, HotPlug, HotPlugEvent, HotPlugHandler, HotPlugParts, HotPlugState};
pub use msix::{Latch, Message, Msix, MsixError, MsixPlace, MsixState, Vector, VectorError};
pub use ports::{ConfigPorts, ConfigPortsState};
pub use segment::{SLOTS, Segment, SegmentError, SlotError};
pub use windows::{Windows, WindowsError};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What [`Latch`] is built on; a test puts loom's in its place.
mod sync {
    pub(crate) use std::sync::{Mutex, MutexGuard};
}

/// Locks. No code here panics with a lock held, so a poisoned lock guards sound state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
