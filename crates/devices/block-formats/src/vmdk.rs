//! VMDK: a text that describes the disk, and its content in flat files, which the text names.
use crate::chain::{Opened, Wish, beside};
use crate::host::{HostFile, Role, Shared};
use crate::{Backing, Cause, bytes};
use drystone_block::open_locked;
use imago::format::gate::ImplicitOpenGate;
use imago::vmdk::Vmdk;
use imago::{FormatAccess, FormatDriverBuilder, StorageOpenOptions};
use std::fs::File;
use std::io;
use std::path::Path;

/// Files that one may have: those of VMware have at most 2 GiB each.
const MAX_EXTENTS: usize = 64;
/// How a file begins that holds content itself, not only a description of it.
pub(crate) const SPARSE: &[u8] = b"KDMV";

pub(crate) fn open(file: File, path: &Path, wish: Wish<'_>) -> Result<Opened, Cause> {
    if !wish.read_only {
        return Err(Cause::ReadOnly);
    }
    if bytes::read(&file, 0, 4).map_err(Cause::host("read it"))? == SPARSE {
        return Err(Cause::Unsupported("sparse extents"));
    }
    let shared = Shared::new(file, path.into(), None);
    let mut refused = None;
    let gate = Gate { path, wish, opened: 0, refused: &mut refused };
    let opened = Vmdk::<HostFile>::builder(shared.role(Role::Metadata)).open(gate);
    let image = match (opened, refused) {
        (Ok(image), _) => image,
        (Err(_), Some(cause)) => return Err(cause),
        (Err(cause), None) => return Err(Cause::host("open it")(cause)),
    };
    Ok(Opened { access: FormatAccess::new(image), shared, qcow2: None })
}

/// Opens what the text names, if it may.
struct Gate<'a> {
    path: &'a Path,
    wish: Wish<'a>,
    opened: usize,
    /// Why it was not, as imago hands on less.
    refused: &'a mut Option<Cause>,
}

impl Gate<'_> {
    fn extent(&mut self, path: &Path) -> Result<HostFile, Cause> {
        if self.wish.backing == Backing::Refuse && !is_own(self.path, path) {
            return Err(Cause::Refers { name: path.display().to_string() });
        }
        if self.opened == MAX_EXTENTS {
            return Err(Cause::Depth(MAX_EXTENTS));
        }
        self.opened += 1;
        let file = open_locked(self.wish.id, path, true)?;
        Ok(Shared::new(file, path.into(), None).role(Role::Data))
    }
}

/// Whether the file at `extent` is named after the one at `path`, beside it: `disk-flat.vmdk` or `disk-f001.vmdk` for `disk.vmdk`.
fn is_own(path: &Path, extent: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    let (Some(stem), Some(name)) = (stem, extent.file_name().and_then(|name| name.to_str())) else {
        return false;
    };
    let rest = name.strip_prefix(stem).and_then(|rest| rest.strip_prefix('-'));
    rest.is_some_and(|rest| rest.ends_with(".vmdk")) && extent == beside(path, name)
}

impl ImplicitOpenGate<HostFile> for Gate<'_> {
    fn open_format<F: FormatDriverBuilder<HostFile>>(&mut self, _: F) -> io::Result<FormatAccess<HostFile>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn open_storage(&mut self, options: StorageOpenOptions) -> io::Result<HostFile> {
        let path = options.get_filename().ok_or(io::ErrorKind::InvalidInput)?;
        self.extent(path).map_err(|cause| {
            *self.refused = Some(cause);
            io::ErrorKind::PermissionDenied.into()
        })
    }
}
