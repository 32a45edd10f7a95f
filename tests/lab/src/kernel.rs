//! Kernel images: what Debian ships, and the ELF inside of it.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The kernel series that the lab provides: Debian's cloud kernels, unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// Linux 6.1, of Debian 12.
    V6_1,
    /// Linux 6.12, of Debian 13.
    V6_12,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// "6.1" or "6.12".
    pub fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// The version with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.name() == name)
    }
}

/// One kernel on the host's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelImages {
    /// The package's exact version, or the directory it was taken from.
    pub release: String,
    /// The bzImage as shipped.
    pub bzimage: PathBuf,
    /// The ELF image that the bzImage carries compressed.
    pub vmlinux: PathBuf,
    /// The directory with the modules (`.ko` or `.ko.xz`, as shipped, in their tree) and `modules.builtin`.
    pub modules: PathBuf,
}

/// Why no ELF image could be taken out of a bzImage, or a module not be read.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The file could not be read.
    #[error("kernel at {}: cannot read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("kernel at {}: {what}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// No kernel, unpacked, comes near this size; a payload that grows past it is refused.
const LARGEST: u64 = 512 << 20;

/// Takes the ELF image out of a bzImage file.
///
/// The place comes from the boot protocol's `payload_offset` and `payload_length` (Documentation/arch/x86/boot.rst, protocol 2.08);
/// gzip-less kernels only, that is LZ4, Zstandard or XZ, which covers what Debian ships.
pub fn extract_vmlinux(bzimage: &Path) -> Result<Vec<u8>, KernelError> {
    let path = || bzimage.to_path_buf();
    let image = fs::read(bzimage).map_err(|source| KernelError::Read { path: path(), source })?;
    payload(&image).and_then(decompress).map_err(|what| KernelError::Format { path: path(), what })
}

/// The compressed payload of a bzImage.
fn payload(image: &[u8]) -> Result<&[u8], String> {
    let field = |offset: usize| {
        let bytes = image.get(offset..)?.first_chunk::<4>()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    if image.get(0x202..0x206) != Some(b"HdrS") {
        return Err("not a bzImage: it has no boot protocol header".into());
    }
    let protocol =
        image.get(0x206..).and_then(|rest| rest.first_chunk::<2>()).map(|bytes| u16::from_le_bytes(*bytes));
    if protocol.is_none_or(|protocol| protocol < 0x208) {
        return Err("its boot protocol is older than 2.08 and does not tell where the payload is".into());
    }
    let setup_sectors = match image.get(0x1f1) {
        Some(0) | None => 4,
        Some(sectors) => usize::from(*sectors),
    };
    let (Some(offset), Some(length)) = (field(0x248), field(0x24c)) else {
        return Err("truncated in its header".into());
    };
    let start = (setup_sectors + 1) * 512 + offset;
    image
        .get(start..start.saturating_add(length))
        .ok_or_else(|| "truncated: its payload ends after the file".into())
}

fn decompress(payload: &[u8]) -> Result<Vec<u8>, String> {
    // The last four bytes are the unpacked size, added by the kernel's build; no format minds them there.
    let elf = match payload {
        [0x02, 0x21, 0x4c, 0x18, rest @ ..] => lz4_legacy(rest)?,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let reader =
                ruzstd::decoding::StreamingDecoder::new(payload).map_err(|error| error.to_string())?;
            read_all(reader)?
        }
        [0xfd, b'7', b'z', b'X', b'Z', ..] => read_all(xz(payload))?,
        [a, b, ..] => {
            return Err(format!(
                "its payload is compressed in a way that is not supported ({a:02x} {b:02x})"
            ));
        }
        _ => return Err("its payload is empty".into()),
    };
    if elf.starts_with(b"\x7fELF") { Ok(elf) } else { Err("its payload is not an ELF image".into()) }
}

fn read_all(reader: impl Read) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    reader
        .take(LARGEST + 1)
        .read_to_end(&mut out)
        .map_err(|error| format!("its payload is corrupt: {error}"))?;
    if out.len() as u64 > LARGEST { Err("its payload is too large".into()) } else { Ok(out) }
}

fn xz(bytes: &[u8]) -> impl Read + '_ {
    liblzma::read::XzDecoder::new(bytes)
}

/// The legacy LZ4 container: blocks of at most 8 MiB, each after its compressed length.
fn lz4_legacy(mut rest: &[u8]) -> Result<Vec<u8>, String> {
    let corrupt = |what: String| format!("its payload is corrupt: {what}");
    let mut block = vec![0; 8 << 20];
    let mut out = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        if after.is_empty() {
            break; // not a length: the unpacked size
        }
        let length = u32::from_le_bytes(*length) as usize;
        let (packed, after) =
            after.split_at_checked(length).ok_or_else(|| corrupt("an LZ4 block is cut off".into()))?;
        let size = lz4_flex::block::decompress_into(packed, &mut block)
            .map_err(|error| corrupt(error.to_string()))?;
        out.extend_from_slice(block.get(..size).unwrap_or_default());
        if out.len() as u64 > LARGEST {
            return Err("its payload is too large".into());
        }
        rest = after;
    }
    Ok(out)
}

/// Reads a kernel module, unpacking it when its name ends in `.xz`.
pub(crate) fn read_module(path: &Path) -> Result<Vec<u8>, KernelError> {
    let bytes = fs::read(path).map_err(|source| KernelError::Read { path: path.into(), source })?;
    if path.extension().is_some_and(|extension| extension == "xz") {
        return read_all(xz(&bytes)).map_err(|what| KernelError::Format { path: path.into(), what });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
