//! The directory that the lab keeps its things in, and the locks that make it safe to share.
//!
//! ```text
//! lock          held while something is fetched
//! apt/          a private apt: lists and downloaded packages
//! tools/        QEMU, e2fsprogs and busybox with every library they need, unpacked
//! kernels/V/    bzImage, vmlinux, modules/, version
//! snapshots/    saved machines, one directory each, named after a hash of all they depend on
//! runs/         a directory for each running job
//! slots/        lock files that count running machines
//! ```

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Context, Error};
use crate::progress::Progress;

/// The lab's directory.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Finds the directory: `DRYSTONE_LAB_DIR`, else `target/lab` of the workspace that the lab was built in,
    /// else, when that is gone, the user's cache directory.
    pub fn locate() -> Self {
        let set = std::env::var_os("DRYSTONE_LAB_DIR").filter(|dir| !dir.is_empty());
        Self { root: set.map_or_else(default_root, absolute) }
    }

    /// A store in `root`, whatever the environment says.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: absolute(root.into().into_os_string()) }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Removes everything in it.
    ///
    /// # Errors
    /// [`Error::Job`] while a job runs or something is being fetched, [`Error::Io`] when a file cannot be removed.
    pub fn clear(&self) -> Result<(), Error> {
        let busy = || {
            Error::Job(format!(
                "{} is in use: a job runs, or something is being fetched",
                self.root.display()
            ))
        };
        let mut held = Vec::new();
        if self.root.join("lock").exists() {
            held.push(Lock::try_exclusive(&self.root.join("lock"))?.ok_or_else(busy)?);
        }
        for entry in fs::read_dir(self.root.join("runs")).into_iter().flatten().flatten() {
            let lock = entry.path().join("lock");
            if lock.exists() {
                held.push(Lock::try_exclusive(&lock)?.ok_or_else(busy)?);
            }
        }
        for part in
            ["apt", "tools", "tools.new", "kernels", "kernels-given", "snapshots", "runs", "slots", "lock"]
        {
            let path = self.root.join(part);
            if path.is_dir() { remove_tree(&path)? } else { drop(fs::remove_file(path)) }
        }
        // It goes as well if nobody has put anything else there.
        let _ = fs::remove_dir(&self.root);
        Ok(())
    }

    /// A path inside, with its parent directory made.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> Result<PathBuf, Error> {
        let path = self.root.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).at("create the directory", parent)?;
        }
        Ok(path)
    }

    /// A directory inside, made if it is not there.
    pub(crate) fn dir(&self, name: impl AsRef<Path>) -> Result<PathBuf, Error> {
        let path = self.root.join(name);
        fs::create_dir_all(&path).at("create the directory", &path)?;
        Ok(path)
    }
}

fn absolute(dir: std::ffi::OsString) -> PathBuf {
    std::path::absolute(&dir).unwrap_or_else(|_| PathBuf::from(dir))
}

fn default_root() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if let Ok(workspace) = workspace.canonicalize()
        && workspace.join("Cargo.toml").is_file()
    {
        return workspace.join("target/lab");
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    cache.unwrap_or_else(std::env::temp_dir).join("drystone-lab")
}

/// A held file lock; dropping it lets go. The kernel lets go as well when the process ends in any way.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    fn open(path: &Path) -> Result<File, Error> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).open(path).at("open the lock", path)
    }

    /// Takes the lock alone if nobody holds it.
    pub(crate) fn try_exclusive(path: &Path) -> Result<Option<Self>, Error> {
        Self::attempt(path, FlockOperation::NonBlockingLockExclusive)
    }

    fn attempt(path: &Path, operation: FlockOperation) -> Result<Option<Self>, Error> {
        let file = Self::open(path)?;
        match flock(&file, operation) {
            Ok(()) => Ok(Some(Self { file })),
            Err(error) if error == rustix::io::Errno::WOULDBLOCK => Ok(None),
            Err(error) => Err(error).at("lock", path),
        }
    }

    /// Takes the lock alone, and says so once waiting takes long.
    pub(crate) fn exclusive(path: &Path, progress: &Progress, waiting_for: &str) -> Result<Self, Error> {
        wait(progress, waiting_for, || Self::try_exclusive(path))
    }

    /// Takes the lock together with others who share it.
    pub(crate) fn shared(path: &Path, progress: &Progress, waiting_for: &str) -> Result<Self, Error> {
        wait(progress, waiting_for, || Self::attempt(path, FlockOperation::NonBlockingLockShared))
    }

    /// Turns an exclusive lock into a shared one.
    pub(crate) fn downgrade(&self, path: &Path) -> Result<(), Error> {
        flock(&self.file, FlockOperation::LockShared).at("lock", path)
    }
}

/// Polls `attempt` until it gives something; says what it waits for after a second.
pub(crate) fn wait<T>(
    progress: &Progress,
    waiting_for: &str,
    mut attempt: impl FnMut() -> Result<Option<T>, Error>,
) -> Result<T, Error> {
    let begun = Instant::now();
    loop {
        if let Some(got) = attempt()? {
            return Ok(got);
        }
        if begun.elapsed() > Duration::from_secs(1) {
            progress.step(&format!("waiting for {waiting_for}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Removes a directory tree that may not be there.
pub(crate) fn remove_tree(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).at("remove", path),
        _ => Ok(()),
    }
}
