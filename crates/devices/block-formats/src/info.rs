use crate::bytes::{be32, len, read};
use crate::chain::{self, Wish};
use crate::qcow2::{Header, MAGIC};
use crate::{Backing, Cause, Format, FormatError};
use std::fs::File;
use std::path::Path;

/// What a file says of the disk in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// The disk's size in bytes.
    pub size: u64,
    /// Of a qcow2 image.
    pub qcow2: Option<Qcow2Info>,
}

/// What a qcow2 image says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qcow2Info {
    /// 2 or 3.
    pub version: u32,
    /// In bytes.
    pub cluster_size: u64,
    /// How wide the counts are that say which clusters are in use.
    pub refcount_bits: u32,
    /// Counts may be behind while a program has it open (QEMU's `lazy_refcounts`).
    pub lazy_refcounts: bool,
    /// Snapshots within the image.
    pub snapshots: u32,
    /// What stands behind it.
    pub backing: Option<Backed>,
    /// Why it cannot be used here, in one line.
    pub problem: Option<String>,
}

/// What an image says of what stands behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backed {
    /// As it is written there, relative to the image's directory.
    pub name: String,
    /// As it is written there.
    pub format: Option<String>,
}

/// Looks what a file says of itself. Files that it names are not opened, but for the extents of a VMDK that are named after it. No lock is
/// taken on a qcow2 image: it may be in use.
///
/// # Errors
/// [`FormatError`].
pub fn inspect(path: &Path, format: Format) -> Result<ImageInfo, FormatError> {
    let fail = FormatError::of(path, format.name());
    match format {
        Format::Qcow2 => {
            let file = File::open(path).map_err(|e| fail(Cause::host("open it")(e)))?;
            let header = Header::read(&file).map_err(&fail)?;
            let end = len(&file).map_err(|e| fail(Cause::host("find its length")(e)))?;
            Ok(ImageInfo { size: header.size, qcow2: Some(qcow2(header, end)) })
        }
        Format::Vmdk => {
            let wish = Wish { id: "image", read_only: true, backing: Backing::Refuse };
            let opened = chain::open(path, format, wish)?;
            Ok(ImageInfo { size: opened.access.size(), qcow2: None })
        }
    }
}

fn qcow2(header: Header, end: u64) -> Qcow2Info {
    Qcow2Info {
        version: header.version,
        cluster_size: header.cluster(),
        refcount_bits: 1u32.checked_shl(header.refcount_order).unwrap_or(0),
        lazy_refcounts: header.lazy_refcounts,
        snapshots: header.snapshots,
        problem: header.check(end).err().map(|cause| cause.to_string()),
        backing: header.backing.map(|name| Backed { name, format: header.backing_format }),
    }
}

/// What a file seems to hold, by how it begins: to tell a user who said nothing, and never to decide on. A guest may have written it.
pub fn looks_like(path: &Path) -> Option<Format> {
    let begin = read(&File::open(path).ok()?, 0, 21).ok()?;
    if be32(&begin, 0) == MAGIC {
        Some(Format::Qcow2)
    } else if begin.starts_with(crate::vmdk::SPARSE) || begin.starts_with(b"# Disk DescriptorFile") {
        Some(Format::Vmdk)
    } else {
        None
    }
}
