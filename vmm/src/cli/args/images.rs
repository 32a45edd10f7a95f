use super::JsonArgs;
use crate::config::{ByteSize, DiskFormat};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(in crate::cli) struct DiskCreateArgs {
    /// The image file that is to be made; there must be nothing yet
    pub path: PathBuf,
    /// Size of the disk in it, a multiple of 512 bytes [default: that of the backing file]
    #[arg(long, value_name = "SIZE", required_unless_present = "backing")]
    pub size: Option<ByteSize>,
    /// How it is kept: raw or qcow2; a --disk that uses it must say the same [default: raw]
    #[arg(long, default_value = "raw", hide_default_value = true)]
    pub format: Made,
    /// What is seen where the new qcow2 image has nothing of its own yet: an image that nobody changes from then on, relative to the new one
    #[arg(long, value_name = "FILE", requires = "backing_format")]
    pub backing: Option<String>,
    /// How that is kept: raw or qcow2
    #[arg(long, value_name = "FORMAT", requires = "backing")]
    pub backing_format: Option<Made>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DiskInfoArgs {
    /// The image file, which a running machine may have, or a block device
    pub path: PathBuf,
    /// How it is kept, which is never guessed: raw, qcow2 or vmdk [default: raw]
    #[arg(long, default_value = "raw", hide_default_value = true)]
    pub format: Kept,
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Formats of images that are made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Made {
    Raw,
    Qcow2,
}

/// Formats of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Kept {
    Raw,
    Qcow2,
    Vmdk,
}

impl From<Kept> for DiskFormat {
    fn from(kept: Kept) -> Self {
        match kept {
            Kept::Raw => Self::Raw,
            Kept::Qcow2 => Self::Qcow2,
            Kept::Vmdk => Self::Vmdk,
        }
    }
}
