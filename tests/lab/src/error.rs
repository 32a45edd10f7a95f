//! What can go wrong between asking for a job and having its result.

use std::io;
use std::path::{Path, PathBuf};

use crate::initramfs::InitramfsError;
use crate::kernel::KernelError;

/// Why the lab could not be prepared, or a job could not be run to its end.
///
/// A command that runs and fails is not an error: its exit code is in [`crate::Outcome`].
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation on the host failed.
    #[error("cannot {attempt} {}: {source}", path.display())]
    Io {
        /// The attempt, as a verb: "write", "create the directory".
        attempt: &'static str,
        /// The file or directory it was tried on.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The disk that holds the lab is full.
    #[error("no space left on the disk while trying to {attempt} {}: the lab needs about 1 GiB free there, or set DRYSTONE_LAB_DIR to a directory with room", path.display())]
    DiskFull {
        /// The attempt, as a verb.
        attempt: &'static str,
        /// The file or directory it was tried on.
        path: PathBuf,
    },
    /// There is no package tool that could bring QEMU and the kernels.
    #[error(
        "{missing} is not installed, so the lab cannot fetch what it needs by itself (it does on Debian); install QEMU 10 \
         for x86-64, e2fsprogs and a static busybox, and set DRYSTONE_LAB_QEMU, DRYSTONE_LAB_MKE2FS, DRYSTONE_LAB_BUSYBOX to them, and \
         DRYSTONE_LAB_KERNEL_6_1 and DRYSTONE_LAB_KERNEL_6_12 to directories that each hold Debian's `bzImage` and `modules/`"
    )]
    NotDebian {
        /// The program that was looked for.
        missing: &'static str,
    },
    /// The machine is not of the one architecture that the lab emulates.
    #[error("the lab runs x86-64 machines on x86-64 hosts only, and this host is {0}")]
    Architecture(&'static str),
    /// No apt source of this machine looks like Debian's main archive.
    #[error(
        "no Debian archive among this machine's apt sources; set DRYSTONE_LAB_ARCHIVE to the address of one"
    )]
    NoArchive,
    /// The archive could not be reached.
    #[error(
        "cannot reach the package archive ({detail}); what is already fetched is kept, run it again when the network is back"
    )]
    Network {
        /// The package tool's first complaint.
        detail: String,
    },
    /// A package is not in the archive.
    #[error("the package archive has no {what}")]
    NoPackage {
        /// What was looked for.
        what: String,
    },
    /// A program that the lab uses failed.
    #[error("{program} failed ({status}): {detail}")]
    Program {
        /// Its name.
        program: String,
        /// How it ended.
        status: String,
        /// Its last words.
        detail: String,
    },
    /// An environment variable of the lab has a value that means nothing.
    #[error("{name}={value:?}: expected {expected}")]
    Environment {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A kernel image could not be taken apart.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// An initramfs could not be put together.
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
    /// Cargo could not build a binary that was asked for.
    #[error("cannot build the binary {bin} of package {package}: {detail}")]
    Build {
        /// The package.
        package: String,
        /// The binary's name.
        bin: String,
        /// What cargo said.
        detail: String,
    },
    /// The emulated machine did not do what it should.
    #[error("the lab's machine {what}{}", ending(.console))]
    Machine {
        /// What it did.
        what: String,
        /// The last lines of its kernel's console, when there are any.
        console: String,
    },
    /// The job cannot be run as it was described.
    #[error("{0}")]
    Job(String),
    /// A file that the job should have left is not there, or cannot be stored.
    #[error("cannot bring back {name} from the job: {detail}")]
    Output {
        /// Its name in the job's directory.
        name: String,
        /// Why not.
        detail: String,
    },
    /// Whoever read the job's output has closed it.
    #[error("the reader of the job's {0} went away")]
    OutputClosed(&'static str),
    /// The job was cancelled from outside; with the signal's number if a signal did it.
    #[error("cancelled{}", .0.map(|n| format!(" by signal {n}")).unwrap_or_default())]
    Cancelled(Option<i32>),
}

fn ending(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("; its console ends with:\n{text}") }
}

impl Error {
    /// Wraps a system error, telling a full disk from the rest.
    pub(crate) fn io(attempt: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        if full.contains(&source.kind()) {
            return Self::DiskFull { attempt, path };
        }
        Self::Io { attempt, path, source }
    }

    /// The exit code that `drystone-lab` gives for this error.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::OutputClosed(_) => 128 + 13,
            Self::Cancelled(Some(signal)) => 128 + signal,
            // As if it had been Ctrl-C.
            Self::Cancelled(None) => 128 + 2,
            Self::Job(_) => 2,
            _ => 125,
        }
    }
}

/// Attaches the attempt and the path to an [`io::Result`].
pub(crate) trait Context<T> {
    fn at(self, attempt: &'static str, path: impl AsRef<Path>) -> Result<T, Error>;
}

impl<T> Context<T> for io::Result<T> {
    fn at(self, attempt: &'static str, path: impl AsRef<Path>) -> Result<T, Error> {
        self.map_err(|source| Error::io(attempt, path, source))
    }
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn at(self, attempt: &'static str, path: impl AsRef<Path>) -> Result<T, Error> {
        self.map_err(|source| Error::io(attempt, path, source.into()))
    }
}
