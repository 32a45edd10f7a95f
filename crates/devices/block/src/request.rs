use crate::shared::Shared;
use drystone_memory::Mem;
use drystone_virtio::{Chain, Fault, RingRef};

/// The unit of everything in the protocol, in bytes, whatever the block size (5.2.4).
pub(crate) const SECTOR: u64 = 512;
/// Length of `struct virtio_blk_req`'s readable head.
pub(crate) const HEADER: u64 = 16;
/// The most pieces of data in a request, as the driver is told (VIRTIO_BLK_F_SEG_MAX). Their descriptors, with those of
/// head and status, fit into any ring of 256 entries.
pub(crate) const MAX_SEGMENTS: u32 = 254;
/// The most bytes in a piece, as the driver is told (VIRTIO_BLK_F_SIZE_MAX).
pub(crate) const MAX_SEGMENT: u32 = 64 << 10;
/// The most data in a request: what a driver that keeps to the two limits above can ask for. More is refused, so that no
/// guest can hold up a pause for as long as 4 GiB take.
pub const MAX_REQUEST: u64 = MAX_SEGMENTS as u64 * MAX_SEGMENT as u64;
/// The most bytes that are discarded by one request: a host is done with it in milliseconds.
pub const MAX_DISCARD: u64 = 1 << 30;
/// The most bytes that are made zeros by one request: a host that has no quicker way writes them.
pub const MAX_ZEROES: u64 = 16 << 20;
/// Length of `struct virtio_blk_discard_write_zeroes`, of which a request has one (max_discard_seg, max_write_zeroes_seg).
const RANGE: u64 = 16;
/// A flag of it: VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP.
const UNMAP: u32 = 1;

/// The status byte (5.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// A request that makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Fill the first `len` writable bytes from byte `offset` of the disk.
    Read {
        offset: u64,
        len: u64,
    },
    /// Write the `len` readable bytes after the head to byte `offset`.
    Write {
        offset: u64,
        len: u64,
    },
    Flush,
    GetId,
    Discard {
        offset: u64,
        len: u64,
    },
    WriteZeroes {
        offset: u64,
        len: u64,
        unmap: bool,
    },
}

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

impl Request {
    /// Reads the head. An error is the status that the guest is answered.
    pub fn parse<M: Mem>(ring: &mut RingRef<'_, M>, chain: &Chain, shared: &Shared) -> Result<Self, Status> {
        let mut head = [0; HEADER as usize];
        if !matches!(ring.read(chain, 0, &mut head), Ok(16)) {
            return Err(Status::IoError);
        }
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = head;
        let (kind, sector) = (u32::from_le_bytes([t0, t1, t2, t3]), u64::from_le_bytes(sector));
        let place = |len| shared.place(sector, len, MAX_REQUEST).ok_or(Status::IoError);
        match kind {
            IN => {
                // The last writable byte is the status.
                let len = u64::from(chain.writable_len()).saturating_sub(1);
                Ok(Self::Read { offset: place(len)?, len })
            }
            OUT if shared.read_only => Err(Status::IoError),
            OUT => {
                let len = u64::from(chain.readable_len()).saturating_sub(HEADER);
                Ok(Self::Write { offset: place(len)?, len })
            }
            FLUSH => Ok(Self::Flush),
            GET_ID => Ok(Self::GetId),
            // Not offered for a disk that cannot be written.
            DISCARD if !shared.read_only => {
                let range = Range::parse(ring, chain, 0)?;
                let (offset, len) = range.place(shared, MAX_DISCARD)?;
                Ok(Self::Discard { offset, len })
            }
            WRITE_ZEROES if !shared.read_only => {
                let range = Range::parse(ring, chain, UNMAP)?;
                let (offset, len) = range.place(shared, MAX_ZEROES)?;
                Ok(Self::WriteZeroes { offset, len, unmap: range.flags & UNMAP != 0 })
            }
            _ => Err(Status::Unsupported),
        }
    }

    /// Bytes of data, for limits and counters.
    pub fn bytes(&self) -> u64 {
        match self {
            // The host may have to write the zeros.
            Self::Read { len, .. } | Self::Write { len, .. } | Self::WriteZeroes { len, .. } => *len,
            Self::Flush | Self::GetId | Self::Discard { .. } => 0,
        }
    }
}

/// `struct virtio_blk_discard_write_zeroes`.
struct Range {
    sector: u64,
    sectors: u32,
    flags: u32,
}

impl Range {
    /// What follows the head: one range, with no other flags than `known` (5.2.6.2).
    fn parse<M: Mem>(ring: &mut RingRef<'_, M>, chain: &Chain, known: u32) -> Result<Self, Status> {
        let mut range = [0; RANGE as usize];
        if u64::from(chain.readable_len()) != HEADER + RANGE
            || !matches!(ring.read(chain, HEADER, &mut range), Ok(16))
        {
            return Err(Status::IoError);
        }
        let (sector, rest) = range.split_at(8);
        let (sectors, flags) = rest.split_at(4);
        let long = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let (sector, sectors, flags) = (long(sector), long(sectors) as u32, long(flags) as u32);
        if flags & !known != 0 {
            return Err(Status::Unsupported);
        }
        Ok(Self { sector, sectors, flags })
    }

    fn place(&self, shared: &Shared, most: u64) -> Result<(u64, u64), Status> {
        let len = u64::from(self.sectors) * SECTOR;
        Ok((shared.place(self.sector, len, most).ok_or(Status::IoError)?, len))
    }
}

/// Completes a request: the status is its last writable byte (5.2.6), and `data` bytes were written from the first on.
pub(crate) fn answer<M: Mem>(
    ring: &mut RingRef<'_, M>,
    queue: u16,
    chain: Chain,
    status: Status,
    data: u64,
) -> Result<(), Fault> {
    let Some(last) = u64::from(chain.writable_len()).checked_sub(1) else {
        return Err(Fault::Request { queue, what: "no room for the status" });
    };
    ring.write(&chain, last, &[status as u8])?;
    // At least so many bytes were written from the first writable one on (2.7.8.2): the status counts if it follows.
    let written = if data == last { data + 1 } else { data };
    ring.complete(chain, u32::try_from(written).unwrap_or(0))
}
