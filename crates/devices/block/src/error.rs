use std::io;
use std::path::PathBuf;

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// A setting makes no sense; says which, and what is allowed.
    #[error("disk `{id}`: {what}")]
    Config {
        /// The disk.
        id: String,
        /// The setting and what is wrong with it.
        what: String,
    },
    /// The host refused something.
    #[error("disk `{id}` at {}: cannot {attempt}: {cause}", path.display())]
    File {
        /// The disk.
        id: String,
        /// The file.
        path: PathBuf,
        /// What was tried.
        attempt: &'static str,
        /// What the host said.
        cause: io::Error,
    },
    /// Somebody else has the file.
    #[error(
        "disk `{id}` at {}: in use by another program or machine{}",
        path.display(),
        if *read_only { ", which writes it" } else { "" }
    )]
    Locked {
        /// The disk.
        id: String,
        /// The file.
        path: PathBuf,
        /// It was to be read only, which several may at once.
        read_only: bool,
    },
    /// Not a file that can be a disk.
    #[error("disk `{id}` at {}: {what}", path.display())]
    NotADisk {
        /// The disk.
        id: String,
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// An engine that the host does not have, or does not permit.
    #[error("disk `{id}`: cannot use the engine {engine}: {cause}")]
    Engine {
        /// The disk.
        id: String,
        /// The engine, as configurations say it.
        engine: &'static str,
        /// What the host said.
        cause: io::Error,
    },
    /// Timers or mailboxes of the device.
    #[error("disk `{id}`: cannot make an event: {cause}")]
    Event {
        /// The disk.
        id: String,
        /// What the host said.
        cause: io::Error,
    },
}

/// Why a disk's file was not made larger.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GrowError {
    /// It was opened for reading.
    #[error("it is read only")]
    ReadOnly,
    /// A block device has the size that it has.
    #[error("it is not a file: whoever made it changes its size, and then it is looked at again")]
    NotAFile,
    /// Not a whole number of sectors.
    #[error("{0} bytes are not a multiple of 512")]
    NotSectors(u64),
    /// Data would be lost.
    #[error("it has {now} bytes, and {bytes} are less: a guest's data is not cut off here")]
    Smaller {
        /// What was asked for.
        bytes: u64,
        /// What it has.
        now: u64,
    },
    /// The host refused.
    #[error(transparent)]
    Host(#[from] io::Error),
}

/// Why a disk has not another size.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResizeError {
    /// The backing file's size cannot be had.
    #[error("disk `{id}`: cannot find its size: {cause}")]
    Size {
        /// The disk.
        id: String,
        /// What the host said.
        cause: io::Error,
    },
    /// The file cannot be made larger.
    #[error("disk `{id}`: cannot make it larger: {cause}")]
    Grow {
        /// The disk.
        id: String,
        /// Why.
        cause: GrowError,
    },
    /// The device does not take it.
    #[error("disk `{id}`: cannot tell the device: {cause}")]
    Post {
        /// The disk.
        id: String,
        /// Why.
        cause: drystone_virtio::PostError,
    },
}
