//! Fetching what the lab needs, once: QEMU, e2fsprogs, busybox and two kernels.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::Apt;
use crate::error::{Context, Error};
use crate::kernel::{KernelImages, Version, extract_vmlinux};
use crate::progress::Progress;
use crate::store::{Lock, Store, remove_tree};
use crate::tools::{LOADER, Tools, run, variable};

/// What is installed, with everything it depends on.
const PACKAGES: [&str; 3] = ["qemu-system-x86", "e2fsprogs", "busybox-static"];
/// Parts of the packages that nothing here reads.
const USELESS: [&str; 6] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/perl5",
];

/// What has been fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assets {
    pub tools: Tools,
    pub kernels: [KernelImages; 2],
}

impl Assets {
    pub(crate) fn kernel(&self, version: Version) -> &KernelImages {
        let [old, new] = &self.kernels;
        match version {
            Version::V6_1 => old,
            Version::V6_12 => new,
        }
    }
}

/// Gives everything, fetching what is missing. Two processes at once are safe: one fetches and the other waits.
pub(crate) fn prepare(store: &Store, progress: &Progress) -> Result<Assets, Error> {
    if !is_complete(store) {
        let lock = store.path("lock")?;
        let _held = Lock::exclusive(&lock, progress, "another process that fetches QEMU and the kernels")?;
        if !is_complete(store) {
            fetch(store, progress)?;
        }
    }
    let tools = Tools::unpacked(&store.root().join("tools")).overridden();
    let kernels = [kernel(store, Version::V6_1)?, kernel(store, Version::V6_12)?];
    Ok(Assets { tools, kernels })
}

/// True when nothing has to be fetched.
pub(crate) fn is_complete(store: &Store) -> bool {
    tools_ready(store) && Version::ALL.iter().all(|version| kernel_ready(store, *version))
}

/// A directory is renamed to its name only when it is whole, so it is enough to see it.
fn tools_ready(store: &Store) -> bool {
    Tools::all_overridden() || store.root().join("tools").is_dir()
}

fn kernel_ready(store: &Store, version: Version) -> bool {
    kernel_override(version).is_some() && kernel_dir(store, version).join("vmlinux").is_file()
        || kernel_override(version).is_none() && kernel_dir(store, version).is_dir()
}

fn kernel_override(version: Version) -> Option<PathBuf> {
    variable(match version {
        Version::V6_1 => "DRYSTONE_LAB_KERNEL_6_1",
        Version::V6_12 => "DRYSTONE_LAB_KERNEL_6_12",
    })
}

fn kernel_dir(store: &Store, version: Version) -> PathBuf {
    let own = if kernel_override(version).is_some() { "kernels-given" } else { "kernels" };
    store.root().join(own).join(version.name())
}

fn kernel(store: &Store, version: Version) -> Result<KernelImages, Error> {
    let dir = kernel_dir(store, version);
    let source = kernel_override(version).unwrap_or_else(|| dir.clone());
    let release = match fs::read_to_string(source.join("version")) {
        Ok(release) => release.trim().to_string(),
        Err(_) => source.display().to_string(),
    };
    let bzimage = source.join("bzImage");
    Ok(KernelImages { release, bzimage, vmlinux: dir.join("vmlinux"), modules: source.join("modules") })
}

/// Gives a Debian package, unpacked with everything it depends on; fetched the first time.
pub(crate) fn package(store: &Store, name: &str, progress: &Progress) -> Result<PathBuf, Error> {
    let root = store.dir(store.path("packages")?)?.join(name);
    // One of an earlier Debian has its files elsewhere.
    let whole = || root.join(LOADER).is_file();
    if !whole() {
        let _held = Lock::exclusive(&store.path("lock")?, progress, "another process that fetches packages")?;
        if !whole() {
            let apt = Apt::new(store)?;
            apt.update(progress)?;
            let files = apt.download_closure(&[name], progress)?;
            install(store, &format!("packages/{name}"), |dir| files.iter().try_for_each(|f| unpack(f, dir)))?;
            apt.forget_downloads()?;
            progress.clear();
        }
    }
    Ok(root)
}

fn fetch(store: &Store, progress: &Progress) -> Result<(), Error> {
    for version in Version::ALL {
        if let Some(given) = kernel_override(version) {
            let dir = store.dir(kernel_dir(store, version))?;
            let elf = extract_vmlinux(&given.join("bzImage"))?;
            fs::write(dir.join("vmlinux"), elf).at("write", dir.join("vmlinux"))?;
        }
    }
    if is_complete(store) {
        return Ok(());
    }
    let apt = Apt::new(store)?;
    apt.update(progress)?;
    if !tools_ready(store) {
        let files = apt.download_closure(&PACKAGES, progress)?;
        install(store, "tools", |dir| unpack_tools(dir, &files, progress))?;
    }
    for version in Version::ALL {
        if !kernel_ready(store, version) {
            let package = apt.cloud_kernel(version.name())?;
            let file = apt.download(&package, progress)?;
            let name = format!("kernels/{}", version.name());
            install(store, &name, |dir| unpack_kernel(dir, &file, &package.version, progress))?;
        }
    }
    apt.forget_downloads()?;
    progress.clear();
    Ok(())
}

/// Fills a directory under a temporary name and gives it its real name when it is whole, in the place of an earlier one.
fn install(store: &Store, name: &str, fill: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
    let target = store.path(name)?;
    let staging = store.path(format!("{name}.new"))?;
    remove_tree(&staging)?;
    fs::create_dir(&staging).at("create the directory", &staging)?;
    let filled = fill(&staging);
    if filled.is_err() {
        let _ = remove_tree(&staging);
    }
    filled?;
    remove_tree(&target)?;
    fs::rename(&staging, &target).at("rename to", &target)
}

fn unpack_tools(dir: &Path, files: &[PathBuf], progress: &Progress) -> Result<(), Error> {
    let what = "QEMU and the libraries it needs: unpacking";
    for (index, file) in files.iter().enumerate() {
        progress.percent(what, index as f64 * 100.0 / files.len() as f64);
        unpack(file, dir)?;
    }
    for part in USELESS {
        remove_tree(&dir.join(part))?;
    }
    let tools = Tools::unpacked(dir);
    for file in [tools.qemu.file(), tools.mke2fs.file(), tools.busybox.clone()] {
        if !file.is_file() {
            let name = file.strip_prefix(dir).unwrap_or(&file).display().to_string();
            return Err(Error::NoPackage { what: format!("{name} where it is expected") });
        }
    }
    tools.qemu.run("qemu-system-x86_64", |command| {
        command.arg("--version");
    })
}

fn unpack_kernel(dir: &Path, file: &Path, version: &str, progress: &Progress) -> Result<(), Error> {
    progress.step(&format!("kernel {version}: unpacking"));
    let tree = dir.join("tree");
    fs::create_dir(&tree).at("create the directory", &tree)?;
    unpack(file, &tree)?;
    let image = first(&tree.join("boot"), |name| name.starts_with("vmlinuz"))?;
    // Debian keeps them below /usr since 13.
    let modules = ["usr/lib/modules", "lib/modules"].map(|dir| tree.join(dir));
    let modules = modules.iter().find(|dir| dir.is_dir()).unwrap_or(&modules[0]);
    let modules = first(modules, |_| true)?;
    let elf = extract_vmlinux(&image)?;
    fs::rename(&image, dir.join("bzImage")).at("move", &image)?;
    fs::rename(&modules, dir.join("modules")).at("move", &modules)?;
    fs::write(dir.join("vmlinux"), elf).at("write", dir.join("vmlinux"))?;
    fs::write(dir.join("version"), version).at("write", dir.join("version"))?;
    remove_tree(&tree)
}

fn unpack(file: &Path, dir: &Path) -> Result<(), Error> {
    let unpacked = run("dpkg-deb", Command::new("dpkg-deb").env("LC_ALL", "C").arg("-x").arg(file).arg(dir));
    unpacked.map_err(|error| match error {
        Error::Program { detail, .. } if detail.contains("No space left") => {
            Error::DiskFull { attempt: "unpack packages to", path: dir.into() }
        }
        // A download that was cut off by a crash of the machine would fail for ever.
        error => {
            let _ = fs::remove_file(file);
            error
        }
    })
}

fn first(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf, Error> {
    let entries = fs::read_dir(dir).at("list", dir)?;
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    names.retain(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(&wanted));
    names.sort();
    names
        .into_iter()
        .next_back()
        .ok_or_else(|| Error::NoPackage { what: format!("kernel files below {}", dir.display()) })
}
