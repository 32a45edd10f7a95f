use crate::Cause;
use crate::bytes::{be32, be64, read};
use std::fs::File;

/// "QFI" and 0xfb.
pub(crate) const MAGIC: u32 = 0x5146_49fb;
/// The largest first-level table, in bytes: QEMU's limit.
pub(crate) const MAX_L1: u64 = 32 << 20;
/// The largest refcount table, in bytes: QEMU's limit.
const MAX_REFCOUNT_TABLE: u64 = 8 << 20;
/// Length of version 2's header, and what version 3's has at least.
const V2_LEN: usize = 72;
const V3_LEN: u32 = 104;
/// Header extensions.
const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;

/// Features that must be known (version 3).
const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

/// The header of an image, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub version: u32,
    pub cluster_bits: u32,
    /// The disk's, in bytes.
    pub size: u64,
    pub encryption: u32,
    pub l1_entries: u32,
    pub l1_offset: u64,
    pub refcount_offset: u64,
    pub refcount_clusters: u32,
    pub snapshots: u32,
    pub incompatible: u64,
    pub lazy_refcounts: bool,
    pub refcount_order: u32,
    pub backing: Option<String>,
    pub backing_format: Option<String>,
}

impl Header {
    /// Reads it. What it says is not looked at, except for what it takes to read it.
    pub fn read(file: &File) -> Result<Self, Cause> {
        let fixed = read(file, 0, V3_LEN as usize).map_err(Cause::host("read the header"))?;
        if be32(&fixed, 0) != MAGIC {
            return Err(Cause::Other("no such image: it does not begin with QFI and 0xfb"));
        }
        let version = be32(&fixed, 4);
        if !(2..=3).contains(&version) {
            return Err(Cause::Other("neither version 2 nor version 3 of the format"));
        }
        let cluster_bits = be32(&fixed, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(Cause::damaged(format!("clusters of 2^{cluster_bits} bytes")));
        }
        let v3 = version == 3;
        let first = read(file, 0, 1 << cluster_bits).map_err(Cause::host("read the header"))?;
        let extensions = if v3 { be32(&fixed, 100) as usize } else { V2_LEN };
        if extensions > first.len() || (v3 && extensions < V3_LEN as usize) {
            return Err(Cause::damaged(format!("a header of {extensions} bytes")));
        }
        let backing = name(&first, be64(&fixed, 8), be32(&fixed, 16))?;
        Ok(Self {
            version,
            cluster_bits,
            size: be64(&fixed, 24),
            encryption: be32(&fixed, 32),
            l1_entries: be32(&fixed, 36),
            l1_offset: be64(&fixed, 40),
            refcount_offset: be64(&fixed, 48),
            refcount_clusters: be32(&fixed, 56),
            snapshots: be32(&fixed, 60),
            incompatible: if v3 { be64(&fixed, 72) } else { 0 },
            lazy_refcounts: v3 && be64(&fixed, 80) & 1 != 0,
            refcount_order: if v3 { be32(&fixed, 96) } else { 4 },
            backing,
            backing_format: backing_format(&first, extensions)?,
        })
    }

    /// In bytes.
    pub fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// What the entry of a first-level table stands for, in bytes of the disk.
    pub fn l2_reach(&self) -> u64 {
        1 << (2 * self.cluster_bits - 3)
    }

    /// In bytes.
    pub fn refcount_table_len(&self) -> u64 {
        u64::from(self.refcount_clusters) << self.cluster_bits
    }

    /// Clusters whose counts are in one block of counts.
    pub fn refcount_reach(&self) -> u64 {
        1 << (self.cluster_bits + 3 - self.refcount_order)
    }

    /// How large the first-level table must be for a disk of `size` bytes, in bytes.
    pub fn l1_len_for(&self, size: u64) -> u64 {
        size.div_ceil(self.l2_reach()).saturating_mul(8)
    }

    /// Whether images of this kind are read and written here. `end` is the length of its file.
    pub fn check(&self, end: u64) -> Result<(), Cause> {
        if self.encryption != 0 {
            return Err(Cause::Unsupported("encryption"));
        }
        for (bit, what) in [
            (DATA_FILE, "an external data file"),
            (COMPRESSION, "a compression other than zlib"),
            (EXTENDED_L2, "extended L2 entries (subclusters)"),
            (!(DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2), "a newer feature of the format"),
        ] {
            if self.incompatible & bit != 0 {
                return Err(Cause::Unsupported(what));
            }
        }
        if self.incompatible & CORRUPT != 0 {
            return Err(Cause::damaged("it says so itself"));
        }
        if self.incompatible & DIRTY != 0 {
            return Err(Cause::Dirty);
        }
        self.check_sizes()?;
        self.check_places(end)
    }

    /// Whether nothing becomes too large, or is written where the disk has nothing.
    fn check_sizes(&self) -> Result<(), Cause> {
        if self.size < 512 {
            return Err(Cause::Other("the disk in it is smaller than a sector of 512 bytes"));
        }
        if self.refcount_order > 6 {
            return Err(Cause::damaged(format!("reference counts of 2^{} bits", self.refcount_order)));
        }
        let (has, needs) = (u64::from(self.l1_entries) * 8, self.l1_len_for(self.size));
        if has > MAX_L1 {
            return Err(Cause::damaged(format!("a first-level table of {has} bytes")));
        }
        if has < needs {
            return Err(Cause::damaged(format!(
                "a disk of {} bytes with a first-level table for less",
                self.size
            )));
        }
        if self.refcount_table_len() > MAX_REFCOUNT_TABLE {
            return Err(Cause::damaged(format!("a refcount table of {} bytes", self.refcount_table_len())));
        }
        Ok(())
    }

    /// Whether its tables are in the file.
    fn check_places(&self, end: u64) -> Result<(), Cause> {
        for (what, offset, len) in [
            ("first-level table", self.l1_offset, u64::from(self.l1_entries) * 8),
            ("refcount table", self.refcount_offset, self.refcount_table_len()),
        ] {
            let there =
                offset.checked_add(len).is_some_and(|last| last <= end.next_multiple_of(self.cluster()));
            if !offset.is_multiple_of(self.cluster()) || !there {
                return Err(Cause::damaged(format!("the {what} is at {offset:#x}")));
            }
        }
        Ok(())
    }
}

/// The name of the backing file, which is in the first cluster.
fn name(first: &[u8], offset: u64, len: u32) -> Result<Option<String>, Cause> {
    if offset == 0 || len == 0 {
        return Ok(None);
    }
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    let bytes = from.checked_add(len as usize).and_then(|end| first.get(from..end));
    let Some(bytes) = bytes.filter(|_| len <= 1023) else {
        return Err(Cause::damaged("the name of its backing file is not in its first cluster"));
    };
    text(bytes).map(Some)
}

fn text(bytes: &[u8]) -> Result<String, Cause> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Cause::damaged("a name in it is no text"))
}

/// Looks through the header's extensions, which begin at `at`.
fn backing_format(first: &[u8], mut at: usize) -> Result<Option<String>, Cause> {
    while let Some(rest) = first.get(at..).filter(|rest| rest.len() >= 8) {
        let (kind, len) = (be32(rest, 0), be32(rest, 4) as usize);
        if kind == END {
            return Ok(None);
        }
        let Some(data) = len.checked_add(8).and_then(|end| rest.get(8..end)) else {
            return Err(Cause::damaged("an extension of its header is longer than its first cluster"));
        };
        if kind == BACKING_FORMAT {
            return text(data).map(Some);
        }
        at += 8 + len.next_multiple_of(8);
    }
    Ok(None)
}
