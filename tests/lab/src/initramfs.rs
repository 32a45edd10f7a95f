//! Putting a guest's first file system together.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cpio::{Kind, Writer};
use crate::kernel::{KernelError, KernelImages};
use crate::modules::in_load_order;
use crate::tools::{LIBRARIES, LOADER};

/// A line of shell for a guest's `/init`: loads, in order, what [`Builder::modules`] put in.
pub const LOAD_MODULES: &str = "for module in /modules/*.ko; do /bin/busybox insmod \"$module\"; done";

/// Why an initramfs could not be put together.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// A file for it could not be read, or it could not be written.
    #[error("initramfs: cannot {attempt} {}: {source}", path.display())]
    File {
        /// The attempt, as a verb.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// A module is missing or broken.
    #[error("initramfs: {0}")]
    Module(#[from] KernelError),
    /// An entry that the format cannot hold.
    #[error("initramfs: {name}: {source}")]
    Entry {
        /// Its path in the archive.
        name: String,
        /// What is wrong with it.
        source: std::io::Error,
    },
}

#[derive(Debug, Clone)]
struct Entry {
    kind: Kind,
    permissions: u32,
    data: Vec<u8>,
}

/// Collects files and gives them as a cpio archive that Linux takes as its initramfs.
///
/// Paths are those in the guest; parent directories appear by themselves. A later entry replaces an earlier one of the
/// same path. Everything belongs to root, and equal contents give equal bytes.
///
/// ```
/// use drystone_lab::initramfs::Builder;
/// let archive = Builder::new()
///     .dir("/proc", 0o755)
///     .char_device("/dev/console", 0o600, 5, 1)
///     .file("/init", 0o755, "#!/bin/busybox sh\nexec /bin/busybox poweroff -f\n")
///     .build()?;
/// assert!(archive.starts_with(b"070701"));
/// # Ok::<(), drystone_lab::initramfs::InitramfsError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Builder {
    entries: BTreeMap<String, Entry>,
    modules: usize,
}

impl Builder {
    /// An empty file system.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory.
    pub fn dir(self, path: &str, permissions: u32) -> Self {
        self.with(path, Kind::Directory, permissions, Vec::new())
    }

    /// Adds a file with these contents.
    pub fn file(self, path: &str, permissions: u32, contents: impl Into<Vec<u8>>) -> Self {
        self.with(path, Kind::File, permissions, contents.into())
    }

    /// Adds a symbolic link at `path` that points to `target`.
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.with(path, Kind::Symlink, 0o777, target.as_bytes().to_vec())
    }

    /// Adds a character device.
    pub fn char_device(self, path: &str, permissions: u32, major: u32, minor: u32) -> Self {
        self.with(path, Kind::CharDevice(major, minor), permissions, Vec::new())
    }

    /// Adds `/init`, the first program of the guest.
    pub fn init(self, script: &str) -> Self {
        self.file("/init", 0o755, script)
    }

    /// Adds a copy of a file of the host, with its permissions.
    ///
    /// # Errors
    /// [`InitramfsError::File`] when it cannot be read.
    pub fn copy(self, path: &str, source: &Path) -> Result<Self, InitramfsError> {
        let failed = |error| InitramfsError::File { attempt: "read", path: source.into(), source: error };
        let contents = fs::read(source).map_err(failed)?;
        let permissions = fs::metadata(source).map_err(failed)?.permissions().mode() & 0o7777;
        Ok(self.file(path, permissions, contents))
    }

    /// Adds a program of an unpacked package tree ([`Lab::package`](crate::Lab::package)) with the libraries that it needs; at
    /// `path` is then a script that starts it.
    ///
    /// # Errors
    /// [`InitramfsError::File`] when a part of it is not there, or its loader does not list its libraries.
    pub fn program(self, path: &str, root: &Path, program: &str) -> Result<Self, InitramfsError> {
        let loader = root.join(LOADER);
        let libraries = libraries(root, &loader, program)?;
        let (lib, bin) = (format!("{path}.lib"), format!("{path}.bin"));
        let mut builder = self.copy(&bin, &root.join(program))?.copy(&format!("{lib}/ld.so"), &loader)?;
        for library in &libraries {
            if let Some(name) = library.file_name() {
                builder = builder.copy(&format!("{lib}/{}", name.display()), library)?;
            }
        }
        let script = format!("#!/bin/sh\nexec {lib}/ld.so --library-path {lib} {bin} \"$@\"\n");
        Ok(builder.file(path, 0o755, script))
    }

    /// Adds busybox as `/bin/busybox`, with a link in `/bin` for each of its commands, and the directories that
    /// an init script mounts things on.
    ///
    /// # Errors
    /// [`InitramfsError::File`] when it cannot be read or does not list its commands.
    pub fn busybox(self, busybox: &Path) -> Result<Self, InitramfsError> {
        let failed = |error| InitramfsError::File { attempt: "run", path: busybox.into(), source: error };
        let list = Command::new(busybox).arg("--list").output().map_err(failed)?;
        let mut builder = self.copy("/bin/busybox", busybox)?;
        for command in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox") {
            builder = builder.symlink(&format!("/bin/{command}"), "busybox");
        }
        for dir in ["/dev", "/etc", "/mnt", "/proc", "/root", "/run", "/sys", "/var"] {
            builder = builder.dir(dir, 0o755);
        }
        builder = builder.dir("/tmp", 0o1777).char_device("/dev/console", 0o600, 5, 1);
        Ok(builder.symlink("/sbin", "bin").symlink("/usr/bin", "../bin").symlink("/usr/sbin", "../bin"))
    }

    /// Adds kernel modules, with all they depend on, as `/modules/NN-name.ko`, unpacked and numbered in load order;
    /// [`LOAD_MODULES`] loads them. What is built into the kernel is left out.
    ///
    /// # Errors
    /// [`InitramfsError::Module`] when the kernel has no such module.
    pub fn modules(mut self, kernel: &KernelImages, names: &[&str]) -> Result<Self, InitramfsError> {
        for (name, bytes) in in_load_order(&kernel.modules, names)? {
            self.modules += 1;
            let path = format!("/modules/{:03}-{name}.ko", self.modules);
            self = self.file(&path, 0o644, bytes);
        }
        Ok(self)
    }

    /// Gives the archive.
    ///
    /// # Errors
    /// [`InitramfsError::Entry`] for a file of 4 GiB or more, or a path with a zero byte.
    pub fn build(&self) -> Result<Vec<u8>, InitramfsError> {
        let mut writer = Writer::new(Vec::new());
        for (path, entry) in &self.entries {
            let failed = |source| InitramfsError::Entry { name: path.clone(), source };
            writer.entry(path, entry.kind, entry.permissions, &entry.data).map_err(failed)?;
        }
        writer.finish().map_err(|source| InitramfsError::Entry { name: "the end".into(), source })
    }

    /// Writes the archive to a file.
    ///
    /// # Errors
    /// As [`Self::build`], and [`InitramfsError::File`] when the file cannot be written.
    pub fn write_to(&self, path: &Path) -> Result<(), InitramfsError> {
        let failed = |source| InitramfsError::File { attempt: "write", path: path.into(), source };
        fs::write(path, self.build()?).map_err(failed)
    }

    /// Puts what is below `prefix` into a directory of the host: the root of a disk that is to be mounted there in the guest, for what is
    /// too much for a guest's memory. Directories, files and symbolic links; devices are left out.
    ///
    /// # Errors
    /// [`InitramfsError::File`] when something cannot be written, as where there is something already.
    pub fn unpack(&self, prefix: &str, to: &Path) -> Result<(), InitramfsError> {
        let prefix = prefix.trim_matches('/');
        for (path, entry) in &self.entries {
            let Some(rest) = path.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')) else {
                continue;
            };
            let place = to.join(rest);
            let done = match entry.kind {
                Kind::Directory => fs::create_dir(&place),
                Kind::File => fs::write(&place, &entry.data).and_then(|()| {
                    fs::set_permissions(&place, fs::Permissions::from_mode(entry.permissions))
                }),
                Kind::Symlink => {
                    let target = std::ffi::OsStr::from_bytes(&entry.data);
                    std::os::unix::fs::symlink(target, &place)
                }
                Kind::CharDevice(..) | Kind::BlockDevice(..) => Ok(()),
            };
            done.map_err(|source| InitramfsError::File { attempt: "write", path: place, source })?;
        }
        Ok(())
    }

    fn with(mut self, path: &str, kind: Kind, permissions: u32, data: Vec<u8>) -> Self {
        let path = path.trim_matches('/').to_string();
        for (end, _) in path.match_indices('/') {
            let parent = path.get(..end).unwrap_or_default().to_string();
            let directory = Entry { kind: Kind::Directory, permissions: 0o755, data: Vec::new() };
            self.entries.entry(parent).or_insert(directory);
        }
        self.entries.insert(path, Entry { kind, permissions, data });
        self
    }
}

/// What a program of an unpacked package tree needs, as its loader says.
fn libraries(root: &Path, loader: &Path, program: &str) -> Result<Vec<PathBuf>, InitramfsError> {
    let failed =
        |source| InitramfsError::File { attempt: "list the libraries of", path: root.join(program), source };
    let mut directories = vec![root.join(LIBRARIES)];
    loop {
        let path = std::env::join_paths(&directories).map_err(|e| failed(std::io::Error::other(e)))?;
        let mut list = Command::new(loader);
        list.arg("--library-path").arg(path).arg("--list").arg(root.join(program));
        let listed = list.output().map_err(failed)?;
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let found = text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
        let found: Vec<_> = found.collect();
        // A library may say itself where others are, and means the place where it is installed: this host's, with other versions.
        let elsewhere = found.iter().filter_map(|path| path.strip_prefix("/").ok()?.parent());
        let Some(more) =
            elsewhere.map(|dir| root.join(dir)).find(|dir| dir.is_dir() && !directories.contains(dir))
        else {
            return Ok(found);
        };
        directories.push(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_before_their_children_and_later_entries_win() {
        let builder =
            Builder::new().file("/a/b/c", 0o600, "one").file("a/b/c", 0o644, "two").dir("/a", 0o700);
        let names: Vec<_> = builder.entries.keys().map(String::as_str).collect();
        assert_eq!(names, ["a", "a/b", "a/b/c"]);
        assert_eq!(builder.entries["a/b/c"].data, b"two");
        assert_eq!(builder.entries["a"].permissions, 0o700);
        let again = Builder::new().dir("/a", 0o700).file("/a/b/c", 0o644, "two");
        assert_eq!(builder.build().unwrap(), again.build().unwrap(), "equal contents give equal bytes");
    }

    #[test]
    fn what_is_below_a_place_can_be_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let builder = Builder::new()
            .file("/tools/bin/x", 0o755, "x")
            .symlink("/tools/y", "bin/x")
            .file("/z", 0o644, "z");
        builder.unpack("/tools", dir.path()).unwrap();
        assert_eq!(fs::read(dir.path().join("y")).unwrap(), b"x");
        let mode = fs::metadata(dir.path().join("bin/x")).unwrap().permissions().mode();
        assert_eq!((mode & 0o777, fs::read_dir(dir.path()).unwrap().count()), (0o755, 2));
        assert!(builder.unpack("/tools", dir.path()).is_err(), "nothing is written over");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Builder::new().copy("/x", Path::new("/nowhere/x")).unwrap_err().to_string();
        assert!(error.starts_with("initramfs: cannot read /nowhere/x: "), "{error}");
    }
}
