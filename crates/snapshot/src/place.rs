//! The place of a snapshot: made beside it, and put there in one step.

use crate::{Manifest, WriteError};
use rustix::fs::{AtFlags, CWD, FlockOperation, RenameFlags};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A directory beside the place that a snapshot will have, locked by whoever writes it. Dropped, it is gone, and what was there
/// before is still there.
pub(crate) struct Place {
    target: PathBuf,
    parent: PathBuf,
    partial: PathBuf,
    lock: File,
    committed: bool,
}

impl Place {
    /// Makes the directory, and takes away what an attempt that was killed may have left in it.
    pub(crate) fn prepare(target: &Path) -> Result<Self, WriteError> {
        let name = target.file_name().ok_or_else(|| WriteError::NoName(target.into()))?;
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        replaceable(target)?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".partial");
        let partial = parent.join(hidden);
        let lock = lock(&partial)?.ok_or_else(|| WriteError::Busy(target.into()))?;
        let place = Self { target: target.into(), parent, partial, lock, committed: false };
        place.clear()?;
        Ok(place)
    }

    /// Where the files of the snapshot are made.
    pub(crate) fn path(&self) -> &Path {
        &self.partial
    }

    fn clear(&self) -> Result<(), WriteError> {
        crate::memory::clear(&self.partial)?;
        let failed = || WriteError::io(&self.partial, "clear away an attempt that was interrupted");
        for entry in fs::read_dir(&self.partial).map_err(failed())? {
            fs::remove_file(entry.map_err(failed())?.path()).map_err(failed())?;
        }
        Ok(())
    }

    /// Puts the snapshot into its place: from one moment to the next, and for good, the old one is not there and the new one is.
    pub(crate) fn commit(mut self) -> Result<(), WriteError> {
        self.lock.sync_all().map_err(WriteError::io(&self.partial, "write it to disk"))?;
        let exchanged = self.rename().map_err(WriteError::io(&self.target, "put the snapshot there"))?;
        self.committed = true;
        let synced = File::open(&self.parent).and_then(|parent| parent.sync_all());
        if exchanged {
            // The new one is in place; what remains of the old one hurts nobody, and goes with the next attempt.
            let _ = fs::remove_dir_all(&self.partial);
        }
        synced.map_err(WriteError::io(&self.parent, "write it to disk"))
    }

    /// Says whether something else was there, and is now where the new one was made.
    fn rename(&self) -> io::Result<bool> {
        let rename = |flags| rustix::fs::renameat_with(CWD, &self.partial, CWD, &self.target, flags);
        match rename(RenameFlags::NOREPLACE) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::EXIST) => {
                replaceable(&self.target).map_err(|e| io::Error::other(e.to_string()))?;
                rename(RenameFlags::EXCHANGE)?;
                Ok(true)
            }
            // A file system without these flags: rename(2) itself only replaces an empty directory.
            Err(rustix::io::Errno::INVAL) => {
                fs::rename(&self.partial, &self.target)?;
                Ok(false)
            }
            Err(e) => Err(e.into()),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.committed {
            // Should it not go, the next attempt clears it away.
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

/// Makes and locks the directory; `None` if somebody else has.
fn lock(partial: &Path) -> Result<Option<File>, WriteError> {
    loop {
        match fs::create_dir(partial) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(WriteError::io(partial, "make this directory")(e));
            }
            _ => {}
        }
        let failed = || WriteError::io(partial, "lock it");
        let dir = match File::open(partial) {
            // It was taken away meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            opened => opened.map_err(failed())?,
        };
        match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            locked => locked.map_err(|e| failed()(e.into()))?,
        }
        // Whoever held it before may have moved it into place: then the lock is of another directory.
        let ours = dir.metadata().map_err(failed())?.ino();
        let there = rustix::fs::statat(CWD, partial, AtFlags::SYMLINK_NOFOLLOW);
        if there.is_ok_and(|there| there.st_ino == ours) {
            return Ok(Some(dir));
        }
    }
}

/// Nothing, an empty directory or a snapshot may be replaced.
fn replaceable(target: &Path) -> Result<(), WriteError> {
    let mut entries = match fs::read_dir(target) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            return Err(WriteError::Occupied(target.into()));
        }
        entries => entries.map_err(WriteError::io(target, "look at what is there"))?,
    };
    if entries.next().is_none() || target.join(Manifest::FILE).is_file() {
        return Ok(());
    }
    Err(WriteError::Occupied(target.into()))
}
