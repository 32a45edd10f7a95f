//! A virtio network device (virtio 1.3, 5.1).
//!
//! [`Net`] is a device for any transport of `drystone-virtio`: one worker for each pair of queues, on a [`Port`] of a
//! [`Backend`] that carries its frames: [`Tap`] is one of the host's interfaces, [`wire`] a cable to the caller. A
//! [`NetHandle`] changes link and limits while the guest runs, and shows counters.
#![deny(unsafe_code)]
#![doc = include_str!("../README.md")]

mod backend;
mod config;
mod control;
mod counters;
mod device;
mod error;
mod features;
mod filter;
mod handle;
mod hook;
mod mac;
mod pair;
mod passt;
mod shared;
mod space;
mod state;
mod tap;
mod wire;

pub use backend::{Backend, FRAME_HEADER, MAX_FRAME, Port};
pub use config::{MAX_PAIRS, NetConfig};
pub use counters::NetCounters;
pub use device::Net;
pub use error::NetError;
pub use features::Offloads;
pub use filter::{Filter, MAX_MACS};
pub use handle::NetHandle;
pub use hook::{Hook, Verdict};
pub use mac::{Mac, MacError};
pub use passt::{Forward, ForwardError, Passt, PasstConfig, PasstError, PasstPort, Protocol};
pub use state::NetState;
pub use tap::{Tap, TapError, TapPort};
pub use wire::{Wire, WireEnd, WirePort, wire};
