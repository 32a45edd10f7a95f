//! A machine that has booted, saved, so that every job starts from it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::boot_image::{build, runtime_files};
use super::command::{DISK_SIZE, Shape, Start, accelerator, hardware, kernel_command_line};
use super::process::Machine;
use crate::assets::Assets;
use crate::error::{Context, Error};
use crate::executor::Link;
use crate::kernel::Version;
use crate::progress::Progress;
use crate::store::{Lock, Store, remove_tree};
use crate::wire::Kind;

/// How many snapshots are kept: other builds of the lab and machines of other shapes alternate.
const KEPT: usize = 4;
/// How long a machine may take to boot; it takes about 4 s on an idle host.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// A saved machine, kept from being removed while this lives.
#[derive(Debug)]
pub(crate) struct Snapshot {
    dir: PathBuf,
    shape: Shape,
    _lock: Lock,
}

impl Snapshot {
    /// The machine's memory.
    pub(crate) fn ram(&self) -> PathBuf {
        self.dir.join("ram")
    }

    /// The state of processors and devices.
    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Resumes the machine, with its other files in `dir`.
    pub(crate) fn resume(&self, assets: &Assets, dir: &Path) -> Result<Machine, Error> {
        let mut machine = Machine::start(&assets.tools, self.shape, dir, &self.ram(), &Start::Resume)?;
        machine.resume(&self.state())?;
        Ok(machine)
    }

    /// Gives the snapshot for exactly these inputs, making it when there is none.
    pub(crate) fn get(
        store: &Store,
        assets: &Assets,
        agent: &Path,
        shape: Shape,
        progress: &Progress,
    ) -> Result<Self, Error> {
        let quick = quick_key(assets, agent, shape)?;
        let known = store.path(format!("snapshots/{quick}.key"))?;
        if let Ok(key) = fs::read_to_string(&known)
            && let Some(snapshot) = Self::open(store, &key, shape, progress)?
        {
            return Ok(snapshot);
        }
        let image = build(agent, &assets.tools.busybox, assets.kernel(Version::V6_12))?;
        let key = key(assets, &image, shape)?;
        let snapshot = match Self::open(store, &key, shape, progress)? {
            Some(snapshot) => snapshot,
            None => Self::make(store, assets, &image, &key, shape, progress)?,
        };
        fs::write(&known, &key).at("write", &known)?;
        Ok(snapshot)
    }

    fn open(store: &Store, key: &str, shape: Shape, progress: &Progress) -> Result<Option<Self>, Error> {
        let dir = store.path(format!("snapshots/{key}"))?;
        if !dir.is_dir() {
            return Ok(None);
        }
        let lock = Lock::shared(&lock_path(store, key)?, progress, "another process that saves a machine")?;
        // It may have been removed before the lock was taken.
        if !dir.join("state").is_file() {
            return Ok(None);
        }
        // The lock file's time tells which snapshot was used last.
        let _ = fs::write(lock_path(store, key)?, "used");
        Ok(Some(Self { dir, shape, _lock: lock }))
    }

    fn make(
        store: &Store,
        assets: &Assets,
        image: &[u8],
        key: &str,
        shape: Shape,
        progress: &Progress,
    ) -> Result<Self, Error> {
        let lock_path = lock_path(store, key)?;
        let lock = Lock::exclusive(&lock_path, progress, "another process that saves a machine")?;
        let dir = store.path(format!("snapshots/{key}"))?;
        if !dir.join("state").is_file() {
            progress.step("starting the emulated machine for the first time");
            remove_old(store, key);
            let staging = store.path(format!("snapshots/{key}.new"))?;
            remove_tree(&staging)?;
            fs::create_dir(&staging).at("create the directory", &staging)?;
            if let Err(error) = boot_and_save(assets, image, shape, &staging) {
                let _ = remove_tree(&staging);
                return Err(error);
            }
            remove_tree(&dir)?;
            fs::rename(&staging, &dir).at("rename to", &dir)?;
            progress.clear();
        }
        lock.downgrade(&lock_path)?;
        let _ = fs::write(&lock_path, "used");
        Ok(Self { dir, shape, _lock: lock })
    }
}

fn lock_path(store: &Store, key: &str) -> Result<PathBuf, Error> {
    store.path(format!("snapshots/{key}.lock"))
}

fn boot_and_save(assets: &Assets, image: &[u8], shape: Shape, dir: &Path) -> Result<(), Error> {
    let (initramfs, disk) = (dir.join("initramfs"), dir.join("disk"));
    fs::write(&initramfs, image).at("write", &initramfs)?;
    fs::File::create(&disk).and_then(|file| file.set_len(DISK_SIZE)).at("create", &disk)?;
    let kernel = &assets.kernel(Version::V6_12).vmlinux;
    let start = Start::Boot { kernel, initramfs: &initramfs };
    let mut machine = Machine::start(&assets.tools, shape, dir, &dir.join("ram"), &start)?;
    await_ready(&mut machine)?;
    // What the kernel puts off until it has a quiet moment is then done once and not in every job.
    std::thread::sleep(Duration::from_millis(300));
    machine.save(&dir.join("state"))?;
    drop(machine);
    for file in [&initramfs, &disk] {
        fs::remove_file(file).at("remove", file)?;
    }
    Ok(())
}

fn await_ready(machine: &mut Machine) -> Result<(), Error> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let port = machine.take_port()?;
    let mut link =
        Link::new(port.into()).map_err(|error| machine.error(format!("cannot be talked to: {error}")))?;
    let limit = Timespec::try_from(BOOT_LIMIT).ok();
    loop {
        let ready = poll(&mut [PollFd::from_borrowed_fd(link.fd(), PollFlags::IN)], limit.as_ref());
        if matches!(ready, Ok(0)) {
            return Err(machine.error(format!("has not booted after {} s", BOOT_LIMIT.as_secs())));
        }
        if !link.exchange().unwrap_or(false) {
            return Err(machine.error("ended before it was ready"));
        }
        if let Ok(Some((Kind::Ready, _))) = link.next() {
            return Ok(());
        }
    }
}

/// A hash over all that a snapshot depends on.
fn key(assets: &Assets, image: &[u8], shape: Shape) -> Result<String, Error> {
    let mut hash = Sha256::new();
    hash.update(image);
    for part in parts(assets, shape)? {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    Ok(hex(&hash.finalize()))
}

/// A hash over the identity of the same things: equal ones need not be read.
fn quick_key(assets: &Assets, agent: &Path, shape: Shape) -> Result<String, Error> {
    let mut hash = Sha256::new();
    let mut files = runtime_files(agent)?;
    files.push(agent.into());
    files.push(assets.tools.busybox.clone());
    files.push(assets.kernel(Version::V6_12).modules.join("modules.builtin"));
    for file in &files {
        hash.update(identity(file)?.as_bytes());
    }
    for part in parts(assets, shape)? {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    Ok(hex(&hash.finalize()))
}

fn parts(assets: &Assets, shape: Shape) -> Result<Vec<String>, Error> {
    let kernel = assets.kernel(Version::V6_12);
    let mut parts =
        vec![identity(&assets.tools.qemu.file())?, identity(&kernel.vmlinux)?, kernel.release.clone()];
    parts.extend(hardware().into_iter().chain(accelerator(shape).iter().copied()).map(String::from));
    parts.extend([kernel_command_line().to_string(), format!("{shape:?}"), DISK_SIZE.to_string()]);
    parts.extend(host());
    Ok(parts)
}

/// A machine measures its clock against the host's when it boots, so it belongs to one host, from one boot to the next.
fn host() -> [String; 2] {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find(|line| line.starts_with("model name")).unwrap_or_default();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    [model.to_string(), boot]
}

/// A file's path, size, time of change and number: enough to see that it was replaced.
fn identity(path: &Path) -> Result<String, Error> {
    let real = fs::metadata(path).at("look at", path)?;
    let shown = fs::canonicalize(path).unwrap_or_else(|_| path.into());
    Ok(format!("{} {} {}.{} {}\n", shown.display(), real.len(), real.mtime(), real.mtime_nsec(), real.ino()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Removes the snapshots that were not used for longest, but none that is in use, and not `key`.
fn remove_old(store: &Store, key: &str) {
    let dir = store.root().join("snapshots");
    let mut found: Vec<_> = fs::read_dir(&dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir() && path.file_name().is_some_and(|name| name != key))
        .map(|path| (fs::metadata(path.with_extension("lock")).and_then(|data| data.modified()).ok(), path))
        .collect();
    found.sort();
    found.reverse();
    for (_, path) in found.into_iter().skip(KEPT - 1) {
        let lock = path.with_extension("lock");
        if let Ok(Some(_lock)) = Lock::try_exclusive(&lock) {
            // The lock file stays: somebody may already be waiting for it.
            let _ = remove_tree(&path);
        }
    }
    forget_missing(&dir);
}

/// Removes the notes about snapshots that are gone.
fn forget_missing(dir: &Path) {
    for path in fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == "key") {
            let key = fs::read_to_string(&path).unwrap_or_default();
            if key.is_empty() || !dir.join(key).is_dir() {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

#[cfg(test)]
mod tests;
