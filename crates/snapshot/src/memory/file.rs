use crate::WriteError;
use crate::open::open;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Guest memory.
const MEMORY: &str = "memory";
/// Says in the directory of a snapshot that is being made where its memory is made, if that is elsewhere. Should whoever makes it be killed,
/// the next one finds the file by it.
const NOTE: &str = "memory.elsewhere";
/// The longest path that a note can hold, in bytes (`PATH_MAX`).
const MAX_NOTE: u64 = 4096;
/// How the names of such files end.
const ENDING: &str = "memory";

/// The file for guest memory, in the snapshot or elsewhere. One that lies elsewhere is removed again unless it is kept.
pub(crate) struct MemoryFile {
    file: File,
    /// Where it is made.
    path: PathBuf,
    /// What the manifest calls it.
    named: PathBuf,
    elsewhere: bool,
}

impl MemoryFile {
    /// Makes it for the snapshot in `place`, or in the directory `elsewhere`, under a name that begins with `machine`.
    pub(crate) fn create(place: &Path, machine: &str, elsewhere: Option<&Path>) -> Result<Self, WriteError> {
        let (path, named) = match elsewhere {
            None => (place.join(MEMORY), MEMORY.into()),
            Some(dir) => {
                let dir = fs::canonicalize(dir).map_err(WriteError::io(dir, "use it for guest memory"))?;
                let path = free(&dir, machine);
                note(place, &path).map_err(WriteError::io(&place.join(NOTE), "write it"))?;
                (path.clone(), path)
            }
        };
        let create = File::options().read(true).write(true).create_new(true).open(&path);
        let file = create.map_err(WriteError::io(&path, "create it"))?;
        Ok(Self { file, path, named, elsewhere: elsewhere.is_some() })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Where it is made.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the manifest calls it.
    pub(crate) fn named(&self) -> &Path {
        &self.named
    }

    /// Writes it to the disk, and keeps it if `commit` works, which puts the snapshot to `target`.
    pub(crate) fn keep_if(
        mut self,
        commit: impl FnOnce() -> Result<(), WriteError>,
        target: &Path,
    ) -> Result<(), WriteError> {
        self.file.sync_all().map_err(WriteError::io(&self.path, "write it to disk"))?;
        if let Some(dir) = self.path.parent().filter(|_| self.elsewhere) {
            let synced = File::open(dir).and_then(|dir| dir.sync_all());
            synced.map_err(WriteError::io(dir, "write it to disk"))?;
        }
        commit()?;
        if std::mem::take(&mut self.elsewhere) {
            // Of a snapshot in its place nobody reads it.
            let _ = fs::remove_file(target.join(NOTE));
        }
        Ok(())
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        if self.elsewhere {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the memory that an attempt, which was killed in `partial`, left elsewhere.
pub(crate) fn clear(partial: &Path) -> Result<(), WriteError> {
    let mut note = Vec::new();
    let read = open(&partial.join(NOTE)).and_then(|file| file.take(MAX_NOTE).read_to_end(&mut note));
    let note = match read {
        Ok(_) => PathBuf::from(OsStr::from_bytes(&note)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(WriteError::io(&partial.join(NOTE), "read it")(e)),
    };
    // One that was cut off names nothing that is there: the file is made when its note is on disk.
    if !note.is_absolute() || note.extension() != Some(OsStr::new(ENDING)) {
        return Ok(());
    }
    match fs::remove_file(&note) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(WriteError::io(&note, "clear away an attempt that was interrupted")(e))
        }
        _ => Ok(()),
    }
}

fn note(place: &Path, path: &Path) -> io::Result<()> {
    let mut file = File::create_new(place.join(NOTE))?;
    file.write_all(path.as_os_str().as_bytes())?;
    file.sync_all()?;
    File::open(place)?.sync_all()
}

/// A name that no file in `dir` has.
fn free(dir: &Path, machine: &str) -> PathBuf {
    let name = |n: u64| dir.join(format!("{machine}.{n}.{ENDING}"));
    let first = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |t| t.as_secs());
    (first..).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(0))
}
