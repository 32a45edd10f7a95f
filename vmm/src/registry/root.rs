use super::RegistryError;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Holders of the root lock do a handful of system calls. One that takes longer than this was stopped.
const PATIENCE: Duration = Duration::from_secs(5);
/// Serialises claims, probes and cleaning. No machine can have this name.
const LOCK: &str = ".lock";

/// Where running machines are listed, and where that comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub path: PathBuf,
    /// The user named it, so it may be a symbolic link.
    pub explicit: bool,
}

/// Chooses the place from the environment: `DRYSTONE_RUNTIME_DIR`, else `drystone` in `XDG_RUNTIME_DIR`, else in
/// `/run/user/UID` if that is ours, else `/tmp/drystone-UID`.
pub(super) fn place(uid: u32, env: impl Fn(&str) -> Option<OsString>, ours: impl Fn(&Path) -> bool) -> Place {
    let set = |name: &str| env(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(path) = set("DRYSTONE_RUNTIME_DIR") {
        return Place { path, explicit: true };
    }
    let user = PathBuf::from(format!("/run/user/{uid}"));
    // With sudo the variable may still name the other user's directory: that is not ours to fill.
    let base = set("XDG_RUNTIME_DIR").filter(|p| p.is_absolute()).into_iter().chain([user]).find(|p| ours(p));
    let path = base.map_or_else(|| format!("/tmp/drystone-{uid}").into(), |b| b.join("drystone"));
    Place { path, explicit: false }
}

/// True of a directory that belongs to `uid`.
pub(super) fn owned_by(path: &Path, uid: u32) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_dir() && m.uid() == uid)
}

/// Makes the directory if need be, with mode 0700, and checks that nobody else could have prepared or can change it.
pub(super) fn prepare(place: &Place, uid: u32) -> Result<(), RegistryError> {
    let path = &place.path;
    let io = |attempt, e: Errno| RegistryError::Io { attempt, path: path.clone(), cause: e.into() };
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => (),
        Err(e) => return Err(io("create", e)),
    }
    let untrusted = |why| Err(RegistryError::Untrusted { path: path.clone(), why });
    let follow = if place.explicit { OFlags::empty() } else { OFlags::NOFOLLOW };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | follow;
    let dir = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(dir) => dir,
        Err(Errno::LOOP | Errno::NOTDIR) => return untrusted("is not a directory"),
        Err(e) => return Err(io("open", e)),
    };
    let stat = rustix::fs::fstat(&dir).map_err(|e| io("look at", e))?;
    if stat.st_uid != uid {
        return untrusted("belongs to another user");
    }
    if stat.st_mode & 0o022 != 0 {
        return untrusted("can be written to by others");
    }
    Ok(())
}

/// Takes the root lock, until the descriptor is closed.
pub(super) fn lock(root: &Path) -> Result<OwnedFd, RegistryError> {
    let path = root.join(LOCK);
    let io = |attempt, e: Errno| RegistryError::Io { attempt, path: path.clone(), cause: e.into() };
    let file = open_lock(&path).map_err(|e| io("open", e))?;
    let start = Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK | Errno::INTR) if start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(Errno::WOULDBLOCK | Errno::INTR) => {
                return Err(RegistryError::Busy { path, seconds: PATIENCE.as_secs() });
            }
            Err(e) => return Err(io("lock", e)),
        }
    }
}

/// Opens a lock file, and makes it if it is not there; never through a symbolic link.
pub(super) fn open_lock(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
}
