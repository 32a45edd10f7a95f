use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Something outside of a snapshot on which the machine stands: the image of a disk. It is not copied, and must be as the guest
/// left it when the machine goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outside {
    /// What it is to the machine: `root`.
    pub name: String,
    /// Where it was.
    pub path: PathBuf,
    /// Its length in bytes.
    pub len: u64,
    /// When its content was last changed, in nanoseconds since 1970-01-01 00:00:00 UTC; 0 for a device, which does not tell.
    pub modified_ns: i64,
}

/// How something outside differs from what it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Changed {
    /// It cannot be looked at.
    #[error("`{name}` at {}: cannot be opened: {cause}", path.display())]
    Gone {
        /// What it is to the machine.
        name: String,
        /// Where it should be.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
    /// It is larger or smaller.
    #[error("`{name}` at {}: has {found} bytes, and had {wanted} when the snapshot was made", path.display())]
    Length {
        /// What it is to the machine.
        name: String,
        /// Where it is.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// What it was.
        wanted: u64,
    },
    /// Somebody wrote to it.
    #[error("`{name}` at {}: was written to after the snapshot was made", path.display())]
    Written {
        /// What it is to the machine.
        name: String,
        /// Where it is.
        path: PathBuf,
    },
}

impl Outside {
    /// Looks at what is at `path` now.
    ///
    /// # Errors
    /// What the host said.
    pub fn look(name: impl Into<String>, path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let data = file.metadata()?;
        let (len, modified_ns) = if data.is_file() {
            (data.len(), data.mtime().saturating_mul(1_000_000_000).saturating_add(data.mtime_nsec()))
        } else {
            (file.seek(SeekFrom::End(0))?, 0)
        };
        Ok(Self { name: name.into(), path: std::path::absolute(path)?, len, modified_ns })
    }

    /// Whether it is still what it was, at `path` if it was moved there, else at its own.
    ///
    /// # Errors
    /// [`Changed`]; at another path the time of its last change says nothing and is not compared.
    pub fn check(&self, moved_to: Option<&Path>) -> Result<(), Changed> {
        let (name, path) = (self.name.clone(), moved_to.unwrap_or(&self.path));
        let now = match Self::look(&*self.name, path) {
            Ok(now) => now,
            Err(cause) => return Err(Changed::Gone { name, path: path.into(), cause }),
        };
        if now.len != self.len {
            return Err(Changed::Length { name, path: path.into(), found: now.len, wanted: self.len });
        }
        if moved_to.is_none() && now.modified_ns != self.modified_ns {
            return Err(Changed::Written { name, path: path.into() });
        }
        Ok(())
    }
}
