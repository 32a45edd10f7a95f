//! What a virtual machine tells its operator, without letting its guest decide how much.
//!
//! [`Log`] takes lines and gives them to a [`Sink`] of the VMM's; [`Throttle`] and [`KeyedThrottle`] stand before it
//! wherever the guest can cause a line. [`Counter`]s are bumped on the hot path; a component shows them, and its
//! state, through [`Observe`], and a [`Registry`] reads all components by name.
#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod counter;
mod keyed;
mod log;
mod registry;
mod throttle;

pub use counter::Counter;
pub use keyed::KeyedThrottle;
pub use log::{Level, Log, Sink};
pub use registry::{NameError, Observe, Registry, Snapshot, Value, Visitor};
pub use throttle::{Quota, Throttle};
