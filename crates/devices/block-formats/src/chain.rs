//! An image with all that stands behind it.
use crate::host::{HostFile, Role, Shared};
use crate::qcow2::{Header, Layout, Tables, first_level};
use crate::{Backing, Cause, Format, FormatError, bytes, vmdk};
use drystone_block::open_locked;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that may stand behind each other, the first included.
const MAX_DEPTH: usize = 16;

/// An image, ready to be read and written.
pub(crate) struct Opened {
    pub access: FormatAccess<HostFile>,
    pub shared: Arc<Shared>,
    /// Of a qcow2 image.
    pub qcow2: Option<Qcow2Parts>,
}

/// What is to be known of a qcow2 image while it is used.
pub(crate) struct Qcow2Parts {
    pub header: Header,
    pub tables: Tables,
}

/// What the disk's user said of it.
#[derive(Clone, Copy)]
pub(crate) struct Wish<'a> {
    /// In messages.
    pub id: &'a str,
    pub read_only: bool,
    pub backing: Backing,
}

/// Opens and locks the file at `path`, and all that it names.
pub(crate) fn open(path: &Path, format: Format, wish: Wish<'_>) -> Result<Opened, FormatError> {
    let file = open_locked(wish.id, path, wish.read_only)?;
    on_file(file, path, format, wish)
}

/// The same for a file that is open.
pub(crate) fn on_file(
    file: File,
    path: &Path,
    format: Format,
    wish: Wish<'_>,
) -> Result<Opened, FormatError> {
    match format {
        Format::Qcow2 => Chain { wish, above: Vec::new() }.qcow2(file, path, wish.read_only),
        Format::Vmdk => vmdk::open(file, path, wish).map_err(FormatError::of(path, format.name())),
    }
}

/// Goes from an image to what stands behind it.
struct Chain<'a> {
    wish: Wish<'a>,
    /// Files that were opened before, by device and inode: one cannot stand behind itself.
    above: Vec<(u64, u64)>,
}

impl Chain<'_> {
    fn qcow2(&mut self, file: File, path: &Path, read_only: bool) -> Result<Opened, FormatError> {
        let fail = FormatError::of(path, Format::Qcow2.name());
        self.enter(&file).map_err(&fail)?;
        let header = Header::read(&file).map_err(&fail)?;
        let end = bytes::len(&file).map_err(|cause| fail(Cause::host("find its length")(cause)))?;
        header.check(end).map_err(&fail)?;
        let l1 = first_level(&file, &header).map_err(&fail)?;
        let layout = if read_only { None } else { Some(writable(&file, &header, &l1).map_err(&fail)?) };
        let tables = Tables::of(&l1, &header);
        let behind = self.behind(&header, path)?;
        let shared = Shared::new(file, path.into(), layout);
        let image = Qcow2::<HostFile>::builder(shared.role(Role::Metadata))
            .write(!read_only)
            .backing(behind)
            .data_file(Some(shared.role(Role::Data)))
            .open(DenyImplicitOpenGate::default())
            .map_err(|cause| fail(Cause::host("open it")(cause)))?;
        let (access, qcow2) = (FormatAccess::new(image), Some(Qcow2Parts { header, tables }));
        Ok(Opened { access, shared, qcow2 })
    }

    fn enter(&mut self, file: &File) -> Result<(), Cause> {
        let found = file.metadata().map_err(Cause::host("look at it"))?;
        let own = (found.dev(), found.ino());
        if self.above.contains(&own) {
            return Err(Cause::damaged("it stands behind itself"));
        }
        if self.above.len() == MAX_DEPTH {
            return Err(Cause::Depth(MAX_DEPTH));
        }
        self.above.push(own);
        Ok(())
    }

    /// What stands behind the image at `path`, to be read only.
    fn behind(
        &mut self,
        header: &Header,
        path: &Path,
    ) -> Result<Option<FormatAccess<HostFile>>, FormatError> {
        let Some(name) = header.backing.clone() else { return Ok(None) };
        let fail = FormatError::of(path, Format::Qcow2.name());
        if self.wish.backing == Backing::Refuse {
            return Err(fail(Cause::Refers { name }));
        }
        let Some(format) = header.backing_format.clone() else {
            return Err(fail(Cause::Formatless { name }));
        };
        let next = beside(path, &name);
        match format.as_str() {
            "qcow2" => {
                let file = open_locked(self.wish.id, &next, true)?;
                self.qcow2(file, &next, true).map(|opened| Some(opened.access))
            }
            "raw" => {
                let file = open_locked(self.wish.id, &next, true)?;
                let fail = FormatError::of(&next, "raw");
                self.enter(&file).map_err(&fail)?;
                let shared = Shared::new(file, next.clone(), None);
                let raw = Raw::builder(shared.role(Role::Data)).open(DenyImplicitOpenGate::default());
                let raw = raw.map_err(|cause| fail(Cause::host("open it")(cause)))?;
                Ok(Some(FormatAccess::new(raw)))
            }
            _ => Err(fail(Cause::Stranger { name, format })),
        }
    }
}

/// The layout of an image that is to be written.
fn writable(file: &File, header: &Header, l1: &[u64]) -> Result<Layout, Cause> {
    let layout = Layout::read(file, header)?;
    layout.check_counted(file, l1)?;
    Ok(layout)
}

/// A name in the image at `path`, which is relative to its directory.
pub(crate) fn beside(path: &Path, name: &str) -> PathBuf {
    path.parent().map_or_else(|| name.into(), |directory| directory.join(name))
}
