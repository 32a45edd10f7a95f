//! The archive format of an initramfs: "newc" cpio (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::io::{self, Write};

/// What an entry is; the bits of a file mode that `stat(2)` calls the type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A plain file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link; its data is the target.
    Symlink,
    /// A character device with its major and minor number.
    CharDevice(u32, u32),
    /// A block device with its major and minor number.
    BlockDevice(u32, u32),
}

impl Kind {
    fn bits(self) -> u32 {
        match self {
            Self::File => 0o100_000,
            Self::Directory => 0o040_000,
            Self::Symlink => 0o120_000,
            Self::CharDevice(..) => 0o020_000,
            Self::BlockDevice(..) => 0o060_000,
        }
    }

    fn device(self) -> (u32, u32) {
        match self {
            Self::CharDevice(major, minor) | Self::BlockDevice(major, minor) => (major, minor),
            _ => (0, 0),
        }
    }
}

/// Writes entries one after another; everything belongs to root and carries no time, so equal contents give equal bytes.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    entries: u32,
}

impl<W: Write> Writer<W> {
    /// An empty archive that goes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, entries: 0 }
    }

    /// Adds an entry. `name` is a path without a leading slash; `permissions` are the low twelve mode bits.
    ///
    /// # Errors
    /// What `out` gives, and `InvalidInput` for data of 4 GiB or more, or a name with a zero byte.
    pub fn entry(&mut self, name: &str, kind: Kind, permissions: u32, data: &[u8]) -> io::Result<()> {
        if name.contains('\0') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a file name with a zero byte"));
        }
        let links = if kind == Kind::Directory { 2 } else { 1 };
        self.record(name, kind.bits() | (permissions & 0o7777), links, kind.device(), data)
    }

    /// Ends the archive and gives the output back.
    ///
    /// # Errors
    /// What the output gives.
    pub fn finish(mut self) -> io::Result<W> {
        self.record("TRAILER!!!", 0, 1, (0, 0), &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn record(
        &mut self,
        name: &str,
        mode: u32,
        links: u32,
        device: (u32, u32),
        data: &[u8],
    ) -> io::Result<()> {
        let too_large = |_| io::Error::new(io::ErrorKind::InvalidInput, "an entry of 4 GiB or more");
        let size = u32::try_from(data.len()).map_err(too_large)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_large)?;
        self.entries += 1;
        let (major, minor) = device;
        // inode, mode, uid, gid, links, mtime, size, device of the file system, device number, length of the name, checksum
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0];
        self.out.write_all(b"070701")?;
        for field in fields {
            write!(self.out, "{field:08X}")?;
        }
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[0])?;
        self.pad(110 + name.len() + 1)?;
        self.out.write_all(data)?;
        self.pad(data.len())
    }

    /// Fills up to a multiple of four after `length` bytes.
    fn pad(&mut self, length: usize) -> io::Result<()> {
        let missing = length.next_multiple_of(4) - length;
        self.out.write_all([0; 3].get(..missing).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let mut writer = Writer::new(Vec::new());
        writer.entry("ab", Kind::File, 0o644, b"hello").unwrap();
        let bytes = writer.finish().unwrap();
        let header = "0707010000000100008 1A4".replace(' ', "");
        assert!(bytes.starts_with(header.as_bytes()));
        assert_eq!(&bytes[54..62], b"00000005");
        assert_eq!(&bytes[94..102], b"00000003");
        assert_eq!(&bytes[110..113], b"ab\0");
        assert_eq!(&bytes[116..124], b"hello\0\0\0", "data starts and ends at a multiple of four");
        assert_eq!(&bytes[124..130], b"070701");
        assert!(bytes.windows(10).any(|window| window == b"TRAILER!!!"));
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn devices_and_links_carry_their_numbers() {
        let mut writer = Writer::new(Vec::new());
        writer.entry("c", Kind::CharDevice(5, 1), 0o600, &[]).unwrap();
        let bytes = writer.finish().unwrap();
        assert_eq!(&bytes[14..22], b"00002180");
        assert_eq!(&bytes[78..94], b"0000000500000001");
    }

    #[test]
    fn a_zero_byte_in_a_name_is_refused() {
        assert!(Writer::new(Vec::new()).entry("a\0b", Kind::File, 0o644, &[]).is_err());
    }
}
