use crate::chain::{self, Wish, beside};
use crate::host::{Role, Shared};
use crate::qcow2::MAX_L1;
use crate::{Backing, Cause, Format, FormatError};
use drystone_block::open_locked;
use imago::FormatCreateBuilder;
use imago::qcow2::Qcow2;
use std::fs::{File, OpenOptions};
use std::path::Path;

use crate::host::HostFile;

/// Bytes of disk that an entry of the first-level table stands for: clusters have 64 KiB.
const L2_REACH: u64 = 512 << 20;

/// A qcow2 image that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewImage {
    /// The disk's size in bytes; that of the backing file unless given.
    pub size: Option<u64>,
    /// What is to stand behind it.
    pub backing: Option<BackingFile>,
}

/// What stands behind an image: its content is seen where the image has none of its own, and nobody may change it from then on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingFile {
    /// As it is written into the image: relative to the image's directory.
    pub name: String,
    /// What it holds; raw if `None`.
    pub format: Option<Format>,
}

impl BackingFile {
    fn format_name(&self) -> &'static str {
        self.format.map_or("raw", Format::name)
    }

    /// The size of its disk.
    fn size(&self, image: &Path) -> Result<u64, FormatError> {
        let path = beside(image, &self.name);
        match self.format {
            Some(format) => {
                let wish = Wish { id: "backing", read_only: true, backing: Backing::Allow };
                Ok(chain::open(&path, format, wish)?.access.size())
            }
            None => {
                let file = open_locked("backing", &path, true)?;
                let size = crate::bytes::len(&file).map_err(Cause::host("find its size"));
                size.map_err(FormatError::of(&path, self.format_name()))
            }
        }
    }
}

/// Makes a qcow2 image (version 3, clusters of 64 KiB) where there is nothing, and gives the size of its disk in bytes.
///
/// # Errors
/// [`FormatError`]; no file is left behind.
pub fn create(path: &Path, new: &NewImage) -> Result<u64, FormatError> {
    let fail = FormatError::of(path, Format::Qcow2.name());
    let setting = |what: &str| fail(Cause::Setting(what.into()));
    let size = match (&new.backing, new.size) {
        (Some(BackingFile { format: Some(Format::Vmdk), .. }), _) => {
            return Err(setting("a VMDK image cannot stand behind another"));
        }
        // It must be there, whatever size is asked for.
        (Some(backing), wanted) => {
            let own = backing.size(path)?;
            wanted.unwrap_or(own)
        }
        (None, Some(size)) => size,
        (None, None) => return Err(setting("it needs a size, or a backing file that has one")),
    };
    if !size.is_multiple_of(512) || size == 0 {
        return Err(setting("its size must be a multiple of 512 bytes"));
    }
    if size.div_ceil(L2_REACH) * 8 > MAX_L1 {
        return Err(setting("too large: a disk has at most 2 PiB"));
    }
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).open(path);
    let file = file.map_err(|e| fail(Cause::host("make the file")(e)))?;
    write(file, path, size, new.backing.as_ref()).map_err(|cause| {
        // Nobody else has it yet.
        let _ = std::fs::remove_file(path);
        fail(cause)
    })?;
    Ok(size)
}

fn write(file: File, path: &Path, size: u64, backing: Option<&BackingFile>) -> Result<(), Cause> {
    let shared = Shared::new(file, path.into(), None);
    let mut image = Qcow2::<HostFile>::create_builder(shared.role(Role::Metadata)).size(size);
    if let Some(backing) = backing {
        image = image.backing(backing.name.clone(), backing.format_name().into());
    }
    image.create().map_err(Cause::host("write it"))?;
    shared.sync().map_err(Cause::host("write it"))
}
