use crate::{FileEntry, Manifest, MemoryMap, OpenError, Progress, memory};
use drystone_state::Blob;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// The longest state of parts that is read, in bytes.
const MAX_STATE: u64 = 256 << 20;

/// A snapshot that was looked at: its files are there, of the lengths that they should have, and its manifest, the state and the
/// memory map are what was written; so are a few blocks of memory.
pub struct Snapshot {
    manifest: Manifest,
    parts: BTreeMap<String, Blob>,
    map: MemoryMap,
    memory: File,
    memory_path: PathBuf,
}

impl Snapshot {
    /// Opens the snapshot in `dir`. It is untrusted input: what is wrong with it is said, and nothing is allocated beyond what its
    /// files' lengths call for.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        Self::open_with(dir, None)
    }

    /// As [`open`](Self::open), with guest memory in the file `memory`, wherever the manifest says it is.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_with(dir: &Path, memory: Option<&Path>) -> Result<Self, OpenError> {
        let manifest = manifest(&dir.join(Manifest::FILE))?;
        let state = read(dir, &manifest.state, MAX_STATE)?;
        let refuse = |cause| OpenError::State { path: dir.join(&manifest.state.name), cause };
        let parts = crate::decode_parts(&state).map_err(refuse)?;
        let map = MemoryMap::from_bytes(&read(dir, &manifest.map, MemoryMap::MAX_LEN)?);
        let map = map.map_err(|cause| OpenError::Map { path: dir.join(&manifest.map.name), cause })?;

        let memory_path = memory.map_or_else(|| dir.join(&manifest.memory.path), Path::to_owned);
        let memory = open(&memory_path).map_err(OpenError::io(&memory_path, "open guest memory"))?;
        let found = memory.metadata().map_err(OpenError::io(&memory_path, "look at guest memory"))?.len();
        for wanted in [manifest.memory.len, map.len()] {
            if found != wanted {
                return Err(OpenError::Length { path: memory_path, found, wanted });
            }
        }
        memory::check_some(&map, &memory, &memory_path)?;
        Ok(Self { manifest, parts, map, memory, memory_path })
    }

    /// Compares all of guest memory with its checksums, with as many threads as help.
    ///
    /// # Errors
    /// [`OpenError::Memory`], [`OpenError::Io`], [`OpenError::Cancelled`].
    pub fn verify(&self, progress: &Progress) -> Result<(), OpenError> {
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        memory::verify(&self.map, &self.memory, &self.memory_path, threads, progress)
    }

    /// What it is of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The state of the machine's parts, by name.
    pub fn parts(&self) -> &BTreeMap<String, Blob> {
        &self.parts
    }

    /// What is where in guest memory.
    pub fn map(&self) -> &MemoryMap {
        &self.map
    }

    /// The file that holds guest memory: the ranges of the [map](Self::map), one after the other.
    ///
    /// # Errors
    /// When the host gives no descriptor.
    pub fn memory(&self) -> std::io::Result<File> {
        self.memory.try_clone()
    }
}

/// Opens a regular file: a pipe that nobody writes to would hold up whoever opens it for ever.
pub(crate) fn open(path: &Path) -> std::io::Result<File> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    File::open(path)
}

fn manifest(path: &Path) -> Result<Manifest, OpenError> {
    let file = open(path).map_err(OpenError::io(path, "open the manifest"))?;
    let mut text = String::new();
    let read = file.take(Manifest::MAX_LEN + 1).read_to_string(&mut text);
    let found = read.map_err(OpenError::io(path, "read the manifest"))? as u64;
    if found > Manifest::MAX_LEN {
        return Err(OpenError::Length { path: path.into(), found, wanted: Manifest::MAX_LEN });
    }
    Manifest::from_text(&text).map_err(|cause| OpenError::Manifest { path: path.into(), cause })
}

/// Reads a file of the snapshot and holds it against its entry.
fn read(dir: &Path, entry: &FileEntry, most: u64) -> Result<Vec<u8>, OpenError> {
    let path = dir.join(&entry.name);
    let file = open(&path).map_err(OpenError::io(&path, "open it"))?;
    let found = file.metadata().map_err(OpenError::io(&path, "look at it"))?.len();
    if found != entry.len || found > most {
        return Err(OpenError::Length { path, found, wanted: entry.len.min(most) });
    }
    let mut bytes = Vec::new();
    let read = file.take(most).read_to_end(&mut bytes);
    read.map_err(OpenError::io(&path, "read it"))?;
    if crc32fast::hash(&bytes) != entry.crc32 {
        return Err(OpenError::Checksum(path));
    }
    Ok(bytes)
}
