use std::io;
use std::path::{Path, PathBuf};

/// Why there is no disk, or nothing is known of one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// A file cannot be opened, or is in use.
    #[error(transparent)]
    File(#[from] drystone_block::BlockError),
    /// A file was opened, and is not what it should be.
    #[error("{} as {format}: {cause}", path.display())]
    Image {
        /// The file: the disk's own, or one that it names.
        path: PathBuf,
        /// What it was taken for.
        format: &'static str,
        /// Why that does not go.
        #[source]
        cause: Cause,
    },
}

impl FormatError {
    /// The cause, of this file.
    pub(crate) fn of(path: &Path, format: &'static str) -> impl Fn(Cause) -> Self {
        move |cause| match cause {
            Cause::File(error) => Self::File(error),
            cause => Self::Image { path: path.into(), format, cause },
        }
    }
}

/// What is wrong with an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// A file that it names cannot be opened, or is in use.
    #[error(transparent)]
    File(#[from] drystone_block::BlockError),
    /// The host refused something.
    #[error("cannot {attempt}: {cause}")]
    Host {
        /// What was tried.
        attempt: &'static str,
        /// What the host said.
        cause: io::Error,
    },
    /// The file holds something else.
    #[error("{0}")]
    Other(&'static str),
    /// A feature of the format that is not known here.
    #[error("it uses {0}, which is not supported")]
    Unsupported(&'static str),
    /// What the file says of itself cannot be.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// It was being written when its writer ended.
    #[error("it was not closed by whoever wrote it last: repair it first, with qemu-img check -r all")]
    Dirty,
    /// It needs files of which nobody has said that they may be opened.
    #[error("it refers to another file, {name:?}: say backing=allow if you know where the image comes from")]
    Refers {
        /// As the image says it.
        name: String,
    },
    /// Nobody knows what that file holds, and what a guest may have written decides nothing.
    #[error(
        "it does not say in which format its backing file {name:?} is: have qemu-img rebase -u -F write it down"
    )]
    Formatless {
        /// As the image says it.
        name: String,
    },
    /// The format of its backing file is none of ours.
    #[error("its backing file {name:?} is {format:?}: only raw and qcow2 are known")]
    Stranger {
        /// As the image says it.
        name: String,
        /// As the image says it.
        format: String,
    },
    /// More than anybody has on purpose.
    #[error("more than {0} files stand behind each other")]
    Depth(usize),
    /// Formats that are only read.
    #[error("it can only be read: say readonly")]
    ReadOnly,
    /// It cannot be used so.
    #[error("{0}")]
    Setting(String),
}

impl Cause {
    pub(crate) fn host(attempt: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Host { attempt, cause }
    }
    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }
}
