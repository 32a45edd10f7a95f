//! Sending files back after the command has ended.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{BACKLOG, Link};
use crate::wire::{Item, ItemKind, Kind};

/// Directories deeper than this are cut off; a loop is not possible, as symbolic links are not followed.
const DEEPEST: usize = 64;

/// Sends each named file or directory.
pub(super) fn send(names: &[String], directory: &Path, link: &mut Link) -> io::Result<()> {
    for (output, name) in names.iter().enumerate() {
        let path = directory.join(name);
        // The name itself may be a link; below it, links stay links.
        let mut walk = Walk { output, link };
        match fs::metadata(&path) {
            Ok(metadata) => walk.send(&path, "", &metadata, 0)?,
            Err(error) => walk.item("", ItemKind::Missing(error.to_string())),
        }
        link.flush()?;
    }
    Ok(())
}

struct Walk<'a> {
    output: usize,
    link: &'a mut Link,
}

impl Walk<'_> {
    fn item(&mut self, relative: &str, kind: ItemKind) {
        self.link.send_json(Kind::Item, &Item { output: self.output, path: relative.into(), kind });
    }

    fn send(&mut self, path: &Path, relative: &str, metadata: &fs::Metadata, depth: usize) -> io::Result<()> {
        let permissions = metadata.permissions().mode() & 0o7777;
        if metadata.is_file() {
            return self.send_file(path, relative, permissions);
        }
        if metadata.is_symlink() {
            let target = fs::read_link(path)?.display().to_string();
            self.item(relative, ItemKind::Symlink(target));
        } else if metadata.is_dir() && depth < DEEPEST {
            self.item(relative, ItemKind::Directory(permissions));
            let mut entries: Vec<_> = fs::read_dir(path)?.flatten().collect();
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                let name = entry.file_name().to_string_lossy().into_owned();
                let below = if relative.is_empty() { name } else { format!("{relative}/{name}") };
                self.send(&entry.path(), &below, &entry.metadata()?, depth + 1)?;
            }
        } else if depth == 0 {
            self.item(relative, ItemKind::Missing("neither a file nor a directory".into()));
        }
        Ok(())
    }

    fn send_file(&mut self, path: &Path, relative: &str, permissions: u32) -> io::Result<()> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) => {
                self.item(relative, ItemKind::Missing(error.to_string()));
                return Ok(());
            }
        };
        self.item(relative, ItemKind::File(permissions));
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = file.read(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            self.link.send(Kind::Data, buffer.get(..length).unwrap_or_default());
            if self.link.backlog() > BACKLOG {
                self.link.flush()?;
            }
        }
    }
}
