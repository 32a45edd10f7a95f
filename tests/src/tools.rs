//! Programs for guests that are too large to be in their memory: a disk with them.
use drystone_lab::initramfs::Builder;
use drystone_lab::{Lab, Progress};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Where a guest has it mounted, and finds its programs in `bin`.
pub const TOOLS: &str = "/tools";

/// By package.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("fio", &["usr/bin/fio"]),
    ("e2fsprogs", &["usr/sbin/mke2fs", "usr/sbin/e2fsck", "usr/sbin/resize2fs"]),
    ("xfsprogs", &["usr/sbin/mkfs.xfs", "usr/sbin/xfs_repair", "usr/sbin/xfs_growfs"]),
];

/// Makes, in `dir`, an ext4 image with fio, and with what makes, checks and grows file systems of ext4 and xfs.
///
/// # Panics
/// When one cannot be fetched, or the image not be made.
pub fn tools_disk(lab: &Lab, dir: &Path) -> PathBuf {
    let (root, image) = (dir.join("tools"), dir.join("tools.img"));
    let mut programs = Builder::new().dir(TOOLS, 0o755);
    for (package, paths) in PROGRAMS {
        let from = lab.package(package, &Progress::stderr()).expect("a package");
        for path in *paths {
            let name = path.rsplit('/').next().unwrap_or(path);
            programs = programs.program(&format!("{TOOLS}/bin/{name}"), &from, path).expect("a program");
        }
    }
    std::fs::create_dir(&root).expect("a directory");
    programs.unpack(TOOLS, &root).expect("the programs");
    File::create(&image).and_then(|file| file.set_len(384 << 20)).expect("an image");
    let mut make = lab.mke2fs();
    // Without a journal: it is only read.
    make.args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"]).arg(&root).arg(&image);
    assert!(make.status().expect("mke2fs starts").success(), "mke2fs fails");
    std::fs::remove_dir_all(&root).expect("the directory can be removed");
    image
}
