use crate::Outside;
use drystone_state::Blob;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a snapshot is of, and which files it is made of. On disk it is JSON that a person can read.
///
/// Its last field is a checksum of all the text before and after it, so a manifest that was edited is refused: what may differ at
/// a restore (paths, names) is said there, and not here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of this layout.
    pub format: u32,
    /// Who wrote it: `drystone 0.1.0`.
    pub program: String,
    /// The machine's name.
    pub machine: String,
    /// When: milliseconds since 1970-01-01, UTC, by the host's clock.
    pub created_unix_ms: u64,
    /// The machine's configuration, in the VMM's own schema.
    pub config: serde_json::Value,
    /// What is saved of each part.
    pub parts: Vec<PartEntry>,
    /// The file with the state of the parts.
    pub state: FileEntry,
    /// The file that says what is where in memory.
    pub map: FileEntry,
    /// Guest memory.
    pub memory: MemoryEntry,
    /// What the machine stands on and the snapshot does not contain.
    pub outside: Vec<Outside>,
    /// CRC-32 of the manifest's text with zeros in this place, in hexadecimal. Zeros but in the text.
    checksum: String,
}

/// One part's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartEntry {
    /// The part's name in the machine.
    pub name: String,
    /// What kind of state it is.
    pub kind: String,
    /// The version of that kind.
    pub version: u32,
    /// Its length in bytes.
    pub len: u64,
}

/// A file in the snapshot's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
    /// CRC-32 (ISO 3309) of its content.
    pub crc32: u32,
}

/// The file that holds guest memory. Its checksums are in the map, a block each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryEntry {
    /// Where it is: in the snapshot's directory unless the path is absolute.
    pub path: PathBuf,
    /// Its length in bytes: all of guest RAM.
    pub len: u64,
    /// How much of it is not zeros, in bytes, counted in pages.
    pub data: u64,
}

/// Why a text is not a manifest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// It is no JSON, or not this one.
    #[error("cannot read the manifest: {0}")]
    Syntax(String),
    /// It was written by a later version.
    #[error(
        "its format is {found}; this version reads up to {newest}: restore it with the version that wrote it, {program}"
    )]
    Newer {
        /// Its format.
        found: u32,
        /// The newest that is known here.
        newest: u32,
        /// Who wrote it, as far as that can be said.
        program: String,
    },
    /// It is not what was written.
    #[error("the manifest was changed or is damaged: its checksum is wrong")]
    Checksum,
}

/// What a manifest of any version says.
#[derive(Deserialize)]
struct AnyVersion {
    format: u32,
    #[serde(default)]
    program: String,
}

const NO_CHECKSUM: &str = "00000000";

impl PartEntry {
    pub(crate) fn of(name: &str, state: &Blob) -> Self {
        let (kind, version) = (state.kind().into(), state.version());
        Self { name: name.into(), kind, version, len: state.len() as u64 }
    }
}

impl Manifest {
    /// The version of the layout that this crate writes, and the newest that it reads.
    pub const FORMAT: u32 = 1;
    /// Its file in a snapshot's directory.
    pub const FILE: &'static str = "manifest.json";
    /// The longest text that is read, in bytes.
    pub const MAX_LEN: u64 = 4 << 20;

    pub(crate) fn new(
        about: crate::About,
        parts: Vec<PartEntry>,
        state: FileEntry,
        map: FileEntry,
        memory: MemoryEntry,
    ) -> Self {
        let crate::About { program, machine, created_unix_ms, config, outside } = about;
        let checksum = NO_CHECKSUM.into();
        Self {
            format: Self::FORMAT,
            program,
            machine,
            created_unix_ms,
            config,
            parts,
            state,
            map,
            memory,
            outside,
            checksum,
        }
    }

    /// Its text, with the checksum in it.
    ///
    /// # Errors
    /// What the encoder said: a path that is not UTF-8.
    pub fn to_text(&self) -> Result<String, String> {
        let text = serde_json::to_string_pretty(self).map_err(|e| e.to_string())? + "\n";
        let checksum = format!("{:08x}", crc32fast::hash(text.as_bytes()));
        Ok(with_checksum(&text, NO_CHECKSUM, &checksum).unwrap_or(text))
    }

    /// Reads a manifest. `text` is untrusted.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn from_text(text: &str) -> Result<Self, ManifestError> {
        let syntax = |e: serde_json::Error| ManifestError::Syntax(e.to_string());
        // A later version may have fields that are not known here: that it is later is what must be said.
        let AnyVersion { format, program } = serde_json::from_str(text).map_err(syntax)?;
        if format > Self::FORMAT {
            return Err(ManifestError::Newer { found: format, newest: Self::FORMAT, program });
        }
        let mut manifest: Self = serde_json::from_str(text).map_err(syntax)?;
        let blank = with_checksum(text, &manifest.checksum, NO_CHECKSUM).ok_or(ManifestError::Checksum)?;
        if format!("{:08x}", crc32fast::hash(blank.as_bytes())) != manifest.checksum {
            return Err(ManifestError::Checksum);
        }
        manifest.checksum = NO_CHECKSUM.into();
        Ok(manifest)
    }
}

/// `text` with another checksum in the place of the last field's.
fn with_checksum(text: &str, old: &str, new: &str) -> Option<String> {
    let field = |sum: &str| format!("\"checksum\": \"{sum}\"");
    let at = text.rfind(&field(old))?;
    let (before, rest) = text.split_at_checked(at)?;
    Some(before.to_owned() + &rest.replacen(&field(old), &field(new), 1))
}
