//! The emulated machine's first file system.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use elf::ElfBytes;
use elf::abi::{PT_INTERP, PT_LOAD};
use elf::endian::LittleEndian;

use crate::error::{Context, Error};
use crate::initramfs::Builder;
use crate::kernel::KernelImages;

/// Modules that the machine loads before it is saved, so that no job has to.
const MODULES: [&str; 20] = [
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "kvm-amd",
    "tun",
    "vhost_net",
    "vhost_vsock",
    "vsock_loopback",
    "overlay",
    "loop",
    "bridge",
    "veth",
    "tap",
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "virtio_net",
    "fuse",
    "virtiofs",
    "ext4",
];
/// The runtime that programs from this host find in the machine.
const LIBRARIES: [&str; 9] = [
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
    "libutil.so.1",
    "libresolv.so.2",
    "libnss_files.so.2",
];
const NEEDED: [&str; 3] = ["libc.so.6", "libm.so.6", "libgcc_s.so.1"];
const DIRECTORIES: [&str; 6] =
    ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];

/// The files of the host that programs need at run time, under the names they have here.
pub(crate) fn runtime_files(agent: &Path) -> Result<Vec<PathBuf>, Error> {
    let bytes = fs::read(agent).at("read", agent)?;
    let (interpreter, needed) = dynamic(&bytes).unwrap_or_default();
    let mut names: BTreeSet<String> = LIBRARIES.map(String::from).into();
    names.extend(needed.iter().cloned());
    let mut files: Vec<PathBuf> = interpreter.map(PathBuf::from).into_iter().collect();
    let loader =
        files.first().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    for name in names {
        let found = DIRECTORIES.iter().map(|dir| Path::new(dir).join(&name)).find(|path| path.is_file());
        match found {
            Some(path) => files.push(path),
            None if Some(&name) == loader.as_ref() => {}
            None if NEEDED.contains(&name.as_str()) || needed.contains(&name) => {
                let what = format!(
                    "{name} is in none of {}, so programs could not run in the lab's machine",
                    DIRECTORIES.join(", ")
                );
                return Err(Error::Job(what));
            }
            None => {}
        }
    }
    Ok(files)
}

/// A dynamic program's loader and the libraries that it names.
fn dynamic(program: &[u8]) -> Option<(Option<String>, Vec<String>)> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(program).ok()?;
    let mut interpreter = None;
    for segment in file.segments()?.iter().filter(|segment| segment.p_type == PT_INTERP) {
        let bytes = file.segment_data(&segment).ok()?;
        interpreter = Some(String::from_utf8_lossy(bytes).trim_end_matches('\0').to_string());
    }
    let common = file.find_common_data().ok()?;
    let strings = common.dynsyms_strs?;
    let needed = common.dynamic?.iter().filter(|entry| entry.d_tag == elf::abi::DT_NEEDED);
    let needed = needed.filter_map(|entry| strings.get(usize::try_from(entry.d_val()).ok()?).ok());
    Some((interpreter, needed.map(String::from).collect()))
}

/// Cuts off what a program does not need to run, foremost its debug information: all that no segment covers.
fn stripped(mut program: Vec<u8>) -> Vec<u8> {
    let Some(end) = loaded_end(&program) else { return program };
    program.truncate(end);
    // The ELF header's e_shoff, and then e_shnum and e_shstrndx: there is no section table any more.
    for field in [0x28..0x30, 0x3c..0x40] {
        if let Some(bytes) = program.get_mut(field) {
            bytes.fill(0);
        }
    }
    program
}

fn loaded_end(program: &[u8]) -> Option<usize> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(program).ok()?;
    let segments = file.segments()?;
    let loads = segments.iter().filter(|segment| segment.p_type == PT_LOAD);
    let end = loads.filter_map(|segment| segment.p_offset.checked_add(segment.p_filesz)).max()?;
    usize::try_from(end).ok().filter(|end| *end <= program.len())
}

/// Builds the archive.
pub(super) fn build(agent: &Path, busybox: &Path, kernel: &KernelImages) -> Result<Vec<u8>, Error> {
    let program = fs::read(agent).at("read", agent)?;
    let mut builder = Builder::new().busybox(busybox)?.modules(kernel, &MODULES)?;
    for file in runtime_files(agent)? {
        // A link is followed: the name is what programs look for.
        let bytes = fs::read(&file).at("read", &file)?;
        builder = builder.file(&file.to_string_lossy(), 0o755, stripped(bytes));
    }
    let root = "root:x:0:0:root:/root:/bin/sh\n";
    builder = builder
        .file("/init", 0o755, stripped(program))
        .file("/etc/passwd", 0o644, root)
        .file("/etc/group", 0o644, "root:x:0:\nkvm:x:104:\n")
        .file("/etc/hosts", 0o644, "127.0.0.1 localhost lab\n::1 localhost\n")
        .dir("/job", 0o755);
    Ok(builder.build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_test_runs_without_what_is_stripped() {
        let program = std::env::current_exe().unwrap();
        let (interpreter, needed) = dynamic(&fs::read(&program).unwrap()).unwrap();
        assert!(interpreter.unwrap().contains("ld-linux"));
        assert!(needed.iter().any(|name| name == "libc.so.6"), "{needed:?}");
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("stripped");
        let bytes = stripped(fs::read(&program).unwrap());
        assert!((bytes.len() as u64) < fs::metadata(&program).unwrap().len());
        fs::write(&copy, bytes).unwrap();
        fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let output = std::process::Command::new(&copy).arg("--list").output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    #[test]
    fn what_is_no_program_stays_as_it_is() {
        assert_eq!(stripped(b"#!/bin/sh\n".to_vec()), b"#!/bin/sh\n");
        assert_eq!(dynamic(b"\x7fELF"), None);
    }

    #[test]
    fn the_runtime_has_the_loader_and_the_c_library() {
        let files = runtime_files(&std::env::current_exe().unwrap()).unwrap();
        assert!(files.iter().any(|file| file.to_string_lossy().contains("ld-linux")));
        assert!(files.iter().any(|file| file.ends_with("libc.so.6")));
    }
}
