//! Disk images in qcow2 and VMDK for `drystone-block`, over the library `imago`.
#![deny(unsafe_code)]
#![doc = include_str!("../README.md")]

mod bytes;
mod chain;
mod create;
mod disk;
mod error;
mod host;
mod info;
mod qcow2;
mod vmdk;

pub use create::{BackingFile, NewImage, create};
pub use disk::FormatDisk;
pub use error::{Cause, FormatError};
pub use info::{Backed, ImageInfo, Qcow2Info, inspect, looks_like};

/// What a file holds that is not raw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// QEMU's, versions 2 and 3.
    Qcow2,
    /// VMware's, with its content in flat files beside a description; to be read only.
    Vmdk,
}

impl Format {
    /// As configurations say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
        }
    }
}

/// Whether files are opened that an image names: the backing file of a qcow2 image and all behind it, and extents of a VMDK image whose
/// names do not begin with its own.
///
/// An image may name any file of the host. Whoever may write the image decides which one the guest reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Backing {
    /// They are not, and neither is the image then.
    #[default]
    Refuse,
    /// They are, to be read only.
    Allow,
}
