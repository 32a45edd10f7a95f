use super::VmId;
use std::io;
use std::path::PathBuf;

/// What could not be done with the directory of running machines.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// A host call failed.
    #[error("runtime directory: cannot {attempt} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
    /// The directory could be somebody else's trap.
    #[error("runtime directory: {} {why}: remove it, or set DRYSTONE_RUNTIME_DIR", path.display())]
    Untrusted {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Another process is in the middle of a change, for too long.
    #[error("runtime directory: {} has been locked for {seconds} seconds by another drystone", path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// The name is taken.
    #[error("a machine named {id} is running already{}", pid.map(|p| format!(" (pid {p})")).unwrap_or_default())]
    Taken {
        /// The name.
        id: VmId,
        /// Whose it is, as far as that can be read.
        pid: Option<u32>,
    },
    /// No free name was found.
    #[error("cannot make up a free name for the machine: use --id")]
    NoFreeName,
    /// The socket's path does not fit into a socket address.
    #[error(
        "the control socket's path {} has {} bytes and may have {max}: use a shorter --id or DRYSTONE_RUNTIME_DIR",
        path.display(), path.as_os_str().len()
    )]
    SocketPath {
        /// The path.
        path: PathBuf,
        /// Most bytes.
        max: usize,
    },
}
