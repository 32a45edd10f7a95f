//! Files for a job: a directory, and a disk image of it.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use crate::error::{Context, Error};
use crate::machine::DISK_SIZE;
use crate::tools::Tools;

/// A name inside of a job's directory: relative, and never outside.
pub(crate) fn checked_name(name: &str) -> Result<&Path, Error> {
    let path = Path::new(name);
    let inside =
        path.components().all(|component| matches!(component, Component::Normal(_) | Component::CurDir));
    if name.is_empty() || !inside || name.contains('\0') {
        return Err(Error::Job(format!("{name:?} is not a name inside of the job's directory")));
    }
    Ok(path)
}

/// Puts a file or a directory under a name into a directory: linked where that is possible, else copied.
pub(crate) fn place(source: &Path, directory: &Path, name: &str, may_link: bool) -> Result<(), Error> {
    let target = directory.join(checked_name(name)?);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).at("create the directory", parent)?;
    }
    // A link given by name stands for what it points to; links below it stay links.
    let real = fs::canonicalize(source).at("find", source)?;
    tree(&real, &target, may_link)
}

fn tree(source: &Path, target: &Path, may_link: bool) -> Result<(), Error> {
    let metadata = fs::symlink_metadata(source).at("look at", source)?;
    if metadata.is_dir() {
        fs::create_dir_all(target).at("create the directory", target)?;
        for entry in fs::read_dir(source).at("list", source)? {
            let entry = entry.at("list", source)?;
            tree(&entry.path(), &target.join(entry.file_name()), may_link)?;
        }
        fs::set_permissions(target, metadata.permissions()).at("set the permissions of", target)
    } else if metadata.is_symlink() {
        let to = fs::read_link(source).at("read the link", source)?;
        symlink(to, target).at("create the link", target)
    } else if metadata.is_file() {
        file(source, target, may_link)
    } else {
        let kind =
            io::Error::new(io::ErrorKind::InvalidInput, "it is neither a file, a directory nor a link");
        Err(kind).at("send", source)
    }
}

fn file(source: &Path, target: &Path, may_link: bool) -> Result<(), Error> {
    // A link costs nothing, but two directories on one disk are not a given, and some systems only let owners link.
    if may_link && fs::hard_link(source, target).is_ok() {
        return Ok(());
    }
    fs::copy(source, target).map(drop).map_err(|error| {
        let unreadable = fs::File::open(source).is_err();
        if unreadable { Error::io("read", source, error) } else { Error::io("copy a file to", target, error) }
    })
}

/// Makes the disk image of a directory: ext4, of the one size that every machine has, with holes where nothing is.
pub(crate) fn disk(tools: &Tools, directory: &Path, image: &Path) -> Result<(), Error> {
    // Room for what the job writes, and for the file system itself.
    let size = size_of(directory)?;
    if size > DISK_SIZE - (DISK_SIZE >> 3) {
        let what = format!(
            "the job's files are {} MiB together, and its disk takes {}",
            size >> 20,
            DISK_SIZE >> 20
        );
        return Err(Error::Job(what));
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).at("open to everyone", directory)?;
    let made = tools.mke2fs.run("mke2fs", |command| {
        // Without a journal, room to grow and checksums it is made in no time and has nothing to replay.
        command.args(["-q", "-F", "-t", "ext4", "-m", "0", "-N", "16384", "-b", "4096"]);
        command.args([
            "-O",
            "^has_journal,^resize_inode,^metadata_csum",
            "-E",
            "lazy_itable_init=1,nodiscard,root_owner=0:0",
        ]);
        command
            .env("MKE2FS_CONFIG", "/dev/null")
            .arg("-d")
            .arg(directory)
            .arg(image)
            .arg(format!("{}k", DISK_SIZE >> 10));
    });
    made.map_err(|error| match error {
        Error::Program { detail, .. } if detail.contains("No space left") => {
            Error::DiskFull { attempt: "write the job's disk image", path: image.into() }
        }
        error => error,
    })
}

fn size_of(directory: &Path) -> Result<u64, Error> {
    let mut size = 0;
    let mut directories: Vec<PathBuf> = vec![directory.into()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).at("list", &directory)? {
            let entry = entry.at("list", &directory)?;
            let metadata = entry.metadata().at("look at", entry.path())?;
            if metadata.is_dir() {
                directories.push(entry.path());
            } else {
                use std::os::unix::fs::MetadataExt;
                size += metadata.blocks() * 512;
            }
        }
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "a\0b"] {
            assert!(checked_name(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "a/b", "./a"] {
            assert!(checked_name(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn trees_are_placed_whole_and_copies_are_independent() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::create_dir_all(source.join("sub")).unwrap();
        fs::write(source.join("sub/file"), "one").unwrap();
        symlink("sub/file", source.join("link")).unwrap();
        let target = dir.path().join("target");
        place(&source, &target, "deep/tree", false).unwrap();
        fs::write(target.join("deep/tree/sub/file"), "two").unwrap();
        assert_eq!(fs::read_to_string(source.join("sub/file")).unwrap(), "one");
        assert_eq!(fs::read_link(target.join("deep/tree/link")).unwrap(), Path::new("sub/file"));
        place(&source.join("link"), &target, "followed", true).unwrap();
        assert_eq!(fs::read_to_string(target.join("followed")).unwrap(), "one");
        let missing = place(Path::new("/nowhere"), &target, "x", true).unwrap_err().to_string();
        assert!(missing.starts_with("cannot find /nowhere: "), "{missing}");
    }
}
