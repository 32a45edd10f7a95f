use crate::manifest::ManifestError;
use crate::memory::MapError;
use std::io;
use std::path::{Path, PathBuf};

/// Why a snapshot was not written. What was there before is still there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The host refused.
    #[error("snapshot: {}: cannot {attempt}: {cause}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried on it.
        attempt: &'static str,
        /// What the host said.
        cause: io::Error,
    },
    /// Something else is in its place.
    #[error("snapshot: {}: is there and is not a snapshot; it is left as it is", .0.display())]
    Occupied(PathBuf),
    /// Somebody else is writing to the same place.
    #[error("snapshot: {}: another snapshot is just being written there", .0.display())]
    Busy(PathBuf),
    /// A path that names no directory that could be made.
    #[error("snapshot: {}: not a place for a directory", .0.display())]
    NoName(PathBuf),
    /// Guest memory cannot be read: a mistake of whoever mapped it.
    #[error("snapshot: cannot read guest memory at {addr:#x}: {cause}")]
    Memory {
        /// Guest-physical address.
        addr: u64,
        /// What was said.
        cause: String,
    },
    /// Something has no encoded form.
    #[error("snapshot: cannot encode {what}: {cause}")]
    Encode {
        /// What.
        what: &'static str,
        /// What the encoder said.
        cause: String,
    },
    /// Somebody changed his mind.
    #[error("snapshot: cancelled")]
    Cancelled,
}

impl WriteError {
    pub(crate) fn io(path: &Path, attempt: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Io { path: path.into(), attempt, cause }
    }
}

/// Why a directory is not a snapshot that can be restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A file of it cannot be read.
    #[error("snapshot: {}: cannot {attempt}: {cause}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried on it.
        attempt: &'static str,
        /// What the host said.
        cause: io::Error,
    },
    /// Its manifest makes no sense.
    #[error("snapshot: {}: {cause}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: ManifestError,
    },
    /// A file is of another length than its manifest says: cut off, or another file.
    #[error("snapshot: {}: has {found} bytes, its manifest says {wanted}", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The length it should have.
        wanted: u64,
    },
    /// A file is not what was written.
    #[error("snapshot: {}: is damaged or another file: its checksum is not the manifest's", .0.display())]
    Checksum(PathBuf),
    /// The state of the parts cannot be read.
    #[error("snapshot: {}: {cause}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// What is known of the memory makes no sense.
    #[error("snapshot: {}: {cause}", path.display())]
    Map {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: MapError,
    },
    /// Memory is not what was written.
    #[error("snapshot: {}: is damaged or another file: guest memory at {addr:#x} is not what was saved", path.display())]
    Memory {
        /// The file.
        path: PathBuf,
        /// Guest-physical address of the first block that differs.
        addr: u64,
    },
    /// Somebody changed his mind.
    #[error("snapshot: cancelled")]
    Cancelled,
}

impl OpenError {
    pub(crate) fn io(path: &Path, attempt: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Io { path: path.into(), attempt, cause }
    }
}
