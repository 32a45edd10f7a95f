//! Running machines: each has a name and a directory under the user's runtime folder.
//!
//! ```text
//! ROOT/ID/lock           held (flock) by the living machine: what proves that it lives
//! ROOT/ID/pid            its process, in decimal, for people to read
//! ROOT/ID/control.sock   its control socket
//! ROOT/ID/log            its log
//! ```
//!
//! The kernel drops the lock with the process, however that ends, so nothing is guessed from process numbers. A
//! directory whose lock is free is stale; whoever meets it removes it. Every change and every look happens under one
//! lock of the whole registry, held for a handful of system calls.

mod error;
mod id;
mod root;
#[cfg(test)]
mod tests;

pub use error::RegistryError;
pub use id::{BadId, VmId};

use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A socket address holds 108 bytes, of which the last is 0 (unix(7)).
const MAX_SOCKET_PATH: usize = 107;
/// Everything that a machine's directory may hold, the lock last: while it is there, the rest is still being removed.
const FILES: [&str; 5] = ["control.sock", "pid", "log", "log.old", "lock"];

/// The directory of running machines of one user.
#[derive(Debug, Clone)]
pub struct Registry {
    root: PathBuf,
}

/// A machine that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub id: VmId,
    /// Its process; `None` while it starts.
    pub pid: Option<u32>,
    /// Its control socket, which may not be there yet.
    pub socket: PathBuf,
}

/// A name that this process holds. Dropping it removes the directory.
#[derive(Debug)]
pub struct Claim {
    id: VmId,
    dir: PathBuf,
    /// Closed last, which frees the lock.
    _lock: OwnedFd,
}

impl Registry {
    /// The registry that the environment names: `DRYSTONE_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/drystone`, else
    /// `/run/user/UID/drystone`, else `/tmp/drystone-UID`. The directory is made if need be.
    ///
    /// # Errors
    /// [`RegistryError::Io`] when it cannot be made, [`RegistryError::Untrusted`] when it belongs to somebody else,
    /// others can write to it, or it is a symbolic link (which only `DRYSTONE_RUNTIME_DIR` may be).
    pub fn from_env() -> Result<Self, RegistryError> {
        let uid = rustix::process::geteuid().as_raw();
        let place = root::place(uid, |name| std::env::var_os(name), |p| root::owned_by(p, uid));
        root::prepare(&place, uid)?;
        Ok(Self { root: place.path })
    }

    /// The registry at `path`, which is made if need be.
    ///
    /// # Errors
    /// As [`Registry::from_env`].
    pub fn at(path: &Path) -> Result<Self, RegistryError> {
        let place = root::Place { path: path.into(), explicit: true };
        root::prepare(&place, rustix::process::geteuid().as_raw())?;
        Ok(Self { root: place.path })
    }

    /// Where the machines' directories are.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Takes the name `id`, or one that is made up, and makes its directory. What a dead machine of that name left is
    /// removed first.
    ///
    /// # Errors
    /// [`RegistryError::Taken`] when a machine of that name lives, [`RegistryError::SocketPath`] when the path of its
    /// socket is too long, [`RegistryError::Io`] and [`RegistryError::Busy`] otherwise.
    pub fn claim(&self, id: Option<&VmId>) -> Result<Claim, RegistryError> {
        let _guard = root::lock(&self.root)?;
        if let Some(id) = id {
            return self.claim_locked(id);
        }
        for _ in 0..16 {
            match self.claim_locked(&VmId::make_up()) {
                Err(RegistryError::Taken { .. }) => (),
                done => return done,
            }
        }
        Err(RegistryError::NoFreeName)
    }

    fn claim_locked(&self, id: &VmId) -> Result<Claim, RegistryError> {
        let dir = self.root.join(id);
        let socket = dir.join("control.sock");
        if socket.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(RegistryError::SocketPath { path: socket, max: MAX_SOCKET_PATH });
        }
        if self.is_alive(id)? {
            return Err(RegistryError::Taken { id: id.clone(), pid: read_pid(&dir) });
        }
        remove(&dir);
        let io = |attempt, path: &Path, e: Errno| RegistryError::Io {
            attempt,
            path: path.into(),
            cause: e.into(),
        };
        rustix::fs::mkdir(&dir, Mode::RWXU).map_err(|e| io("create", &dir, e))?;
        let claim = || {
            let path = dir.join("lock");
            let lock = root::open_lock(&path).map_err(|e| io("create", &path, e))?;
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
                .map_err(|e| io("lock", &path, e))?;
            let pid = dir.join("pid");
            fs::write(&pid, format!("{}\n", std::process::id())).map_err(|cause| RegistryError::Io {
                attempt: "write",
                path: pid,
                cause,
            })?;
            Ok(lock)
        };
        match claim() {
            Ok(_lock) => Ok(Claim { id: id.clone(), dir: dir.clone(), _lock }),
            Err(e) => {
                remove(&dir);
                Err(e)
            }
        }
    }

    /// The machines that live, by name. Directories of dead ones are removed on the way.
    ///
    /// # Errors
    /// [`RegistryError::Io`] when the directory cannot be read, [`RegistryError::Busy`] when somebody holds it.
    pub fn list(&self) -> Result<Vec<Entry>, RegistryError> {
        let _guard = root::lock(&self.root)?;
        let io = |cause| RegistryError::Io { attempt: "read", path: self.root.clone(), cause };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            if let Some(id) = name.to_str().and_then(|n| n.parse().ok())
                && let Some(entry) = self.look_locked(&id)?
            {
                found.push(entry);
            }
        }
        found.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(found)
    }

    /// The machine named `id`, if it lives. The directory of a dead one is removed.
    ///
    /// # Errors
    /// [`RegistryError::Io`], [`RegistryError::Busy`].
    pub fn find(&self, id: &VmId) -> Result<Option<Entry>, RegistryError> {
        let _guard = root::lock(&self.root)?;
        self.look_locked(id)
    }

    fn look_locked(&self, id: &VmId) -> Result<Option<Entry>, RegistryError> {
        let dir = self.root.join(id);
        if self.is_alive(id)? {
            let socket = dir.join("control.sock");
            return Ok(Some(Entry { id: id.clone(), pid: read_pid(&dir), socket }));
        }
        remove(&dir);
        Ok(None)
    }

    /// Whether somebody holds the machine's lock.
    fn is_alive(&self, id: &VmId) -> Result<bool, RegistryError> {
        let path = self.root.join(id).join("lock");
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NOFOLLOW;
        let attempt = rustix::fs::open(&path, flags, Mode::empty())
            .and_then(|file| rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared));
        match attempt {
            Err(Errno::WOULDBLOCK) => Ok(true),
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
            Err(e) => Err(RegistryError::Io { attempt: "look at", path, cause: e.into() }),
        }
    }
}

impl Claim {
    /// The machine's name.
    pub fn id(&self) -> &VmId {
        &self.id
    }
    /// Its directory, mode 0700.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    /// Where its control socket belongs; short enough for a socket address.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }
    /// Where its log belongs unless the user says otherwise.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        remove(&self.dir);
    }
}

/// Removes a machine's directory with what a machine puts there and nothing else. What holds no lock file is not a
/// machine's, unless it is empty: a claim may have died that early.
fn remove(dir: &Path) {
    if !fs::symlink_metadata(dir).is_ok_and(|m| m.is_dir()) {
        return;
    }
    if fs::symlink_metadata(dir.join("lock")).is_err() {
        let _ = fs::remove_dir(dir);
        return;
    }
    for name in FILES {
        let _ = fs::remove_file(dir.join(name));
    }
    let _ = fs::remove_dir(dir);
}

fn read_pid(dir: &Path) -> Option<u32> {
    fs::read_to_string(dir.join("pid")).ok()?.trim().parse().ok()
}
