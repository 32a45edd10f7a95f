//! Files that come back from a job, written to the host's disk as they arrive.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use crate::error::{Context, Error};
use crate::image::checked_name;
use crate::wire::{Item, ItemKind};

/// An output that was asked for: its name in the job, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub name: String,
    pub destination: PathBuf,
}

/// Takes the items and their bytes.
#[derive(Debug)]
pub(crate) struct Collector {
    wanted: Vec<Wanted>,
    open: Option<(File, PathBuf)>,
    missing: Option<Error>,
}

impl Collector {
    pub(crate) fn new(wanted: Vec<Wanted>) -> Self {
        Self { wanted, open: None, missing: None }
    }

    /// Begins a file, or makes a directory or a link.
    pub(crate) fn begin(&mut self, item: &Item) -> Result<(), Error> {
        self.open = None;
        let Some(wanted) = self.wanted.get(item.output) else {
            return Err(Error::Job("the machine sends a file that nobody asked for".into()));
        };
        let mut path = wanted.destination.clone();
        if !item.path.is_empty() {
            path.push(checked_name(&item.path)?);
        }
        match &item.kind {
            ItemKind::File(permissions) => {
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent).at("create the directory", parent)?;
                }
                let file = File::create(&path).at("create", &path)?;
                let permissions = fs::Permissions::from_mode(permissions & 0o777 | 0o600);
                file.set_permissions(permissions).at("set the permissions of", &path)?;
                self.open = Some((file, path));
            }
            ItemKind::Directory(permissions) => {
                fs::create_dir_all(&path).at("create the directory", &path)?;
                let permissions = fs::Permissions::from_mode(permissions & 0o777 | 0o700);
                fs::set_permissions(&path, permissions).at("set the permissions of", &path)?;
            }
            ItemKind::Symlink(target) => {
                let _ = fs::remove_file(&path);
                symlink(target, &path).at("create the link", &path)?;
            }
            ItemKind::Missing(detail) => {
                let name = if item.path.is_empty() {
                    wanted.name.clone()
                } else {
                    format!("{}/{}", wanted.name, item.path)
                };
                self.missing.get_or_insert(Error::Output { name, detail: detail.clone() });
            }
        }
        Ok(())
    }

    /// Takes bytes of the file that was begun last.
    pub(crate) fn data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match &mut self.open {
            Some((file, path)) => file.write_all(bytes).at("write", &*path),
            None => Err(Error::Job("the machine sends bytes of no file".into())),
        }
    }

    /// The first output that did not come back.
    pub(crate) fn finish(self) -> Result<(), Error> {
        self.missing.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_outside_of_the_destination() {
        let dir = tempfile::tempdir().unwrap();
        let destination = dir.path().join("out");
        let mut collector =
            Collector::new(vec![Wanted { name: "d".into(), destination: destination.clone() }]);
        let item = |output, path: &str, kind| Item { output, path: path.into(), kind };
        assert!(collector.begin(&item(0, "../evil", ItemKind::File(0o644))).is_err());
        assert!(collector.begin(&item(1, "", ItemKind::File(0o644))).is_err());
        assert!(collector.data(b"x").is_err());
        collector.begin(&item(0, "", ItemKind::Directory(0o755))).unwrap();
        collector.begin(&item(0, "a/b", ItemKind::File(0o6755))).unwrap();
        collector.data(b"hello").unwrap();
        collector.begin(&item(0, "gone", ItemKind::Missing("why".into()))).unwrap();
        assert_eq!(fs::read(destination.join("a/b")).unwrap(), b"hello");
        let mode = fs::metadata(destination.join("a/b")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "no set-user-id bit comes back");
        assert_eq!(collector.finish().unwrap_err().to_string(), "cannot bring back d/gone from the job: why");
    }
}
