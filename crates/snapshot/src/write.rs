use crate::memory::{self, MemoryFile};
use crate::place::Place;
use crate::{FileEntry, Manifest, MemoryEntry, Outside, PartEntry, Progress, WriteError};
use drystone_memory::GuestRam;
use drystone_state::Blob;
use std::collections::BTreeMap;
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// The file with the state of the parts.
const STATE: &str = "state.cbor";
/// The file that says what is where in memory.
const MAP: &str = "memory.map";
/// More threads than this wait for each other in the file system.
const MAX_THREADS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(7);

/// What a machine is, beside its parts and its memory.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// Who writes: `drystone 0.1.0`.
    pub program: String,
    /// The machine's name.
    pub machine: String,
    /// When: milliseconds since 1970-01-01, UTC.
    pub created_unix_ms: u64,
    /// Its configuration, in the VMM's own schema.
    pub config: serde_json::Value,
    /// What it stands on and the snapshot does not contain.
    pub outside: Vec<Outside>,
}

/// A machine that stands still, and keeps doing so.
pub struct Content<'a> {
    /// What it is.
    pub about: About,
    /// The state of its parts, by name.
    pub parts: BTreeMap<String, Blob>,
    /// Its memory. What it holds is read; pages that were never touched are not.
    pub ram: &'a GuestRam,
}

/// How a snapshot is written.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The directory for guest memory, if it is to lie elsewhere; its file there gets a name of its own. Replacing the snapshot
    /// later does not remove it.
    pub memory_dir: Option<PathBuf>,
    /// How many threads write memory; as many as help unless given.
    pub threads: Option<NonZeroUsize>,
}

impl Options {
    pub(crate) fn threads(&self) -> NonZeroUsize {
        let help = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN).min(MAX_THREADS);
        self.threads.unwrap_or_else(help)
    }
}

/// Writes `content` into the directory `dir`. A snapshot that is there is replaced, from one moment to the next; whenever this ends,
/// or the host fails, there is the old one or the new one. When it returns, the new one is on disk.
///
/// # Errors
/// [`WriteError`]; what was there is still there, and nothing else is left behind.
pub fn write(
    dir: &Path,
    content: &Content<'_>,
    options: &Options,
    progress: &Progress,
) -> Result<Manifest, WriteError> {
    let place = Place::prepare(dir)?;
    let file = MemoryFile::create(place.path(), &content.about.machine, options.memory_dir.as_deref())?;
    let (map, data) = memory::write(content.ram, file.file(), file.path(), options.threads(), progress)?;
    let encode = |what| move |cause| WriteError::Encode { what, cause };

    let memory = MemoryEntry { path: file.named().into(), len: map.len(), data };
    let map = put(&place, MAP, &map.to_bytes().map_err(encode("the memory map"))?)?;
    let state = crate::encode_parts(&content.parts).map_err(encode("the parts' state"))?;
    let state = put(&place, STATE, &state)?;
    let parts = content.parts.iter().map(|(name, state)| PartEntry::of(name, state)).collect();
    let manifest = Manifest::new(content.about.clone(), parts, state, map, memory);
    put(&place, Manifest::FILE, manifest.to_text().map_err(encode("the manifest"))?.as_bytes())?;

    if progress.is_cancelled() {
        return Err(WriteError::Cancelled);
    }
    file.keep_if(|| place.commit(), dir)?;
    Ok(manifest)
}

/// Writes a file of the snapshot, to the disk.
fn put(place: &Place, name: &str, bytes: &[u8]) -> Result<FileEntry, WriteError> {
    let path = place.path().join(name);
    let written = File::create_new(&path).and_then(|mut file| {
        std::io::Write::write_all(&mut file, bytes)?;
        file.sync_all()
    });
    written.map_err(WriteError::io(&path, "write it"))?;
    Ok(FileEntry { name: name.into(), len: bytes.len() as u64, crc32: crc32fast::hash(bytes) })
}
