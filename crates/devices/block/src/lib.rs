//! A virtio block device (virtio 1.3, 5.2).
//!
//! [`Block`] is a device for any transport of `drystone-virtio`: one worker a queue, each with an [`Engine`] that does the
//! I/O. [`RawDisk`] is a raw file or a block device of the host, and [`SyncEngine`] reads and writes it straight from and
//! to guest memory. A [`BlockHandle`] changes size and limits while the guest runs, and shows counters.
#![deny(unsafe_code)]
#![doc = include_str!("../README.md")]

mod config;
mod counters;
mod device;
mod disk;
mod engine;
mod error;
mod fd;
mod handle;
mod image;
mod request;
mod shared;
mod space;
mod state;
mod worker;

pub use config::{BlockConfig, Cache, EngineKind, MAX_QUEUES, OnIoError};
pub use counters::BlockCounters;
pub use device::{Block, Host, IoFailure};
pub use disk::{RawDisk, open_locked};
pub use engine::{
    Done, Engine, EngineError, Job, Operation, SyncEngine, ThreadEngine, ThreadPool, UringEngine,
};
pub use error::{BlockError, GrowError, ResizeError};
pub use fd::Pieces;
pub use handle::BlockHandle;
pub use image::Image;
pub use request::{MAX_DISCARD, MAX_REQUEST, MAX_ZEROES};
pub use state::BlockState;
