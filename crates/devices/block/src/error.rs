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
    /// Timers or mailboxes of the device.
    #[error("disk `{id}`: cannot make an event: {cause}")]
    Event {
        /// The disk.
        id: String,
        /// What the host said.
        cause: io::Error,
    },
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
    /// The device does not take it.
    #[error("disk `{id}`: cannot tell the device: {cause}")]
    Post {
        /// The disk.
        id: String,
        /// Why.
        cause: drystone_virtio::PostError,
    },
}
