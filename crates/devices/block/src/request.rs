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
}

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;

impl Request {
    /// Reads the head. An error is the status that the guest is answered.
    pub fn parse<M: Mem>(ring: &mut RingRef<'_, M>, chain: &Chain, shared: &Shared) -> Result<Self, Status> {
        let mut head = [0; HEADER as usize];
        if !matches!(ring.read(chain, 0, &mut head), Ok(16)) {
            return Err(Status::IoError);
        }
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = head;
        let (kind, sector) = (u32::from_le_bytes([t0, t1, t2, t3]), u64::from_le_bytes(sector));
        let place = |len| shared.place(sector, len).ok_or(Status::IoError);
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
            _ => Err(Status::Unsupported),
        }
    }

    /// Bytes of data, for limits and counters.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Read { len, .. } | Self::Write { len, .. } => *len,
            Self::Flush | Self::GetId => 0,
        }
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
