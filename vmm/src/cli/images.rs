//! `drystone disk create` and `drystone disk info`: images, whether or not a machine has them.

use super::args::{DiskCreateArgs, DiskInfoArgs, Made};
use super::machines::{CommandError, print_json};
use crate::config::{ByteSize, DiskFormat};
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why an image was not made, or cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImageError {
    #[error("{}: cannot {attempt}: {cause}", path.display())]
    Host { path: PathBuf, attempt: &'static str, cause: io::Error },
    #[error("{}: a disk has a size that is a multiple of 512 bytes, and not {size}", path.display())]
    Size { path: PathBuf, size: u64 },
    #[error("{}: a raw image has no backing file: say --format qcow2", .0.display())]
    RawBacking(PathBuf),
    #[cfg(feature = "formats")]
    #[error(transparent)]
    Format(#[from] drystone_block_formats::FormatError),
    #[cfg(not(feature = "formats"))]
    #[error("{}: this drystone was built for raw images only", .0.display())]
    Formats(PathBuf),
}

/// Makes an image.
pub(super) fn create(args: &DiskCreateArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let size = match args.format {
        Made::Raw => raw(args)?,
        Made::Qcow2 => qcow2(args)?,
    };
    Ok(writeln!(out, "{}: a disk of {} bytes", args.path.display(), size)?)
}

fn raw(args: &DiskCreateArgs) -> Result<u64, ImageError> {
    let path = &args.path;
    let size = args.size.filter(|_| args.backing.is_none());
    let Some(ByteSize(size)) = size else { return Err(ImageError::RawBacking(path.clone())) };
    if size == 0 || !size.is_multiple_of(512) {
        return Err(ImageError::Size { path: path.clone(), size });
    }
    let fail = |attempt| move |cause| ImageError::Host { path: path.clone(), attempt, cause };
    let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(fail("make it"))?;
    file.set_len(size).map_err(|cause| {
        // Nobody else has it yet.
        let _ = std::fs::remove_file(path);
        fail("give it its size")(cause)
    })?;
    Ok(size)
}

#[cfg(feature = "formats")]
fn qcow2(args: &DiskCreateArgs) -> Result<u64, ImageError> {
    use drystone_block_formats::{BackingFile, Format, NewImage, create};
    let backing = args.backing.clone().map(|name| {
        let format = args.backing_format.filter(|format| *format == Made::Qcow2).map(|_| Format::Qcow2);
        BackingFile { name, format }
    });
    Ok(create(&args.path, &NewImage { size: args.size.map(|size| size.0), backing })?)
}

#[cfg(not(feature = "formats"))]
fn qcow2(args: &DiskCreateArgs) -> Result<u64, ImageError> {
    Err(ImageError::Formats(args.path.clone()))
}

/// What is known of an image.
#[derive(Serialize)]
struct Info {
    path: PathBuf,
    format: DiskFormat,
    /// The disk's.
    size_bytes: u64,
    /// The file's.
    file_bytes: u64,
    /// What it takes of the host.
    allocated_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    qcow2: Option<Qcow2>,
    /// Another format, like which it begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    begins_like: Option<&'static str>,
}

#[derive(Serialize)]
struct Qcow2 {
    version: u32,
    cluster_bytes: u64,
    refcount_bits: u32,
    lazy_refcounts: bool,
    snapshots: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    backing: Option<Backed>,
    /// Why it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Serialize)]
struct Backed {
    name: String,
    format: Option<String>,
}

/// Says what is known of an image.
pub(super) fn info(args: &DiskInfoArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let info = look(&args.path, args.format.into())?;
    if args.json.json { print_json(&info, out) } else { Ok(print(&info, out)?) }
}

fn look(path: &Path, format: DiskFormat) -> Result<Info, ImageError> {
    let fail = |attempt| move |cause| ImageError::Host { path: path.into(), attempt, cause };
    let mut file = OpenOptions::new().read(true).open(path).map_err(fail("open it"))?;
    let found = file.metadata().map_err(fail("look at it"))?;
    let file_bytes = file.seek(SeekFrom::End(0)).map_err(fail("find its size"))?;
    let mut info = Info {
        path: path.into(),
        format,
        size_bytes: file_bytes,
        file_bytes,
        allocated_bytes: found.blocks() * 512,
        qcow2: None,
        begins_like: None,
    };
    look_inside(&mut info)?;
    Ok(info)
}

#[cfg(feature = "formats")]
fn look_inside(info: &mut Info) -> Result<(), ImageError> {
    use drystone_block_formats::{Format, ImageInfo, inspect, looks_like};
    let format = match info.format {
        DiskFormat::Raw => {
            info.begins_like = looks_like(&info.path).map(Format::name);
            return Ok(());
        }
        DiskFormat::Qcow2 => Format::Qcow2,
        DiskFormat::Vmdk => Format::Vmdk,
    };
    let ImageInfo { size, qcow2 } = inspect(&info.path, format)?;
    info.size_bytes = size;
    info.qcow2 = qcow2.map(|q| Qcow2 {
        version: q.version,
        cluster_bytes: q.cluster_size,
        refcount_bits: q.refcount_bits,
        lazy_refcounts: q.lazy_refcounts,
        snapshots: q.snapshots,
        backing: q.backing.map(|b| Backed { name: b.name, format: b.format }),
        problem: q.problem,
    });
    Ok(())
}

#[cfg(not(feature = "formats"))]
fn look_inside(info: &mut Info) -> Result<(), ImageError> {
    match info.format {
        DiskFormat::Raw => Ok(()),
        _ => Err(ImageError::Formats(info.path.clone())),
    }
}

fn print(info: &Info, out: &mut impl Write) -> io::Result<()> {
    let mut line = |name: &str, value: String| writeln!(out, "{name:<9}{}", plain(&value));
    line("path", info.path.display().to_string())?;
    line("format", info.format.name().into())?;
    line("size", size(info.size_bytes))?;
    line("file", format!("{}, of which {} are used", size(info.file_bytes), size(info.allocated_bytes)))?;
    if let Some(like) = info.begins_like {
        line("content", format!("begins like {like}: --format {like}, if you made it so"))?;
    }
    let Some(qcow2) = &info.qcow2 else { return Ok(()) };
    line("version", qcow2.version.to_string())?;
    line("clusters", size(qcow2.cluster_bytes))?;
    line(
        "counts",
        format!("{} bits{}", qcow2.refcount_bits, if qcow2.lazy_refcounts { ", lazy" } else { "" }),
    )?;
    if qcow2.snapshots > 0 {
        line("inside", format!("{} snapshots", qcow2.snapshots))?;
    }
    if let Some(Backed { name, format }) = &qcow2.backing {
        line("backing", format!("{name} ({})", format.as_deref().unwrap_or("no format given")))?;
    }
    match &qcow2.problem {
        Some(problem) => line("problem", problem.clone()),
        None => Ok(()),
    }
}

/// In bytes, and in a unit if there is one that says the same.
fn size(bytes: u64) -> String {
    match ByteSize(bytes).to_string() {
        text if text == bytes.to_string() => format!("{bytes} bytes"),
        text => format!("{text} ({bytes} bytes)"),
    }
}

/// An image may say anything; a terminal must not obey it.
fn plain(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().collect() } else { vec![c] };
    text.chars().flat_map(shown).collect()
}
