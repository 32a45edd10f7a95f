use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use vm_memory::GuestAddress;

/// A piece of guest memory that a descriptor names. Not checked: it may lie outside of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seg {
    /// Guest-physical address (with an IOMMU: I/O virtual).
    pub addr: GuestAddress,
    /// Length in bytes.
    pub len: u32,
}

/// A request: the segments that the device may read, and those that it may write. At most 1024 segments and
/// 4 GiB - 1 bytes together.
///
/// Not `Clone`, and consumed by [`RingRef::complete`](crate::RingRef::complete): it is completed at most once. It
/// holds addresses, never host pointers. Dropping one without completing it is counted, and a device bug unless it
/// happens in [`cancel`](crate::Worker::cancel).
#[derive(Debug)]
pub struct Chain(pub(crate) Box<Body>);

/// Boxed: a chain is handed on several times on its way, and its ring keeps it for the next request.
#[derive(Debug)]
pub(crate) struct Body {
    pub head: u16,
    /// Position in the available ring, for putting it back there. `None` once it has been handed out again.
    pub position: Option<u16>,
    pub live: bool,
    pub segs: Vec<Seg>,
    /// How many of them are readable.
    pub split: usize,
    pub readable_len: u32,
    pub writable_len: u32,
    /// The ring's count of chains that were dropped alive; also says which ring it came from, and since which reset.
    pub dropped: Arc<AtomicU16>,
}

impl Chain {
    /// Without segments and not alive, of a ring that counts its losses in `dropped`.
    pub(crate) fn blank(dropped: Arc<AtomicU16>) -> Self {
        let segs = Vec::with_capacity(4);
        let (head, position, live, split, readable_len, writable_len) = (0, None, false, 0, 0, 0);
        Self(Box::new(Body { head, position, live, segs, split, readable_len, writable_len, dropped }))
    }

    /// The index of its first descriptor, by which the driver knows it.
    pub fn head(&self) -> u16 {
        self.0.head
    }

    /// What the device may read, in order.
    pub fn readable(&self) -> &[Seg] {
        self.0.segs.get(..self.0.split).unwrap_or_default()
    }

    /// What the device may write, in order.
    pub fn writable(&self) -> &[Seg] {
        self.0.segs.get(self.0.split..).unwrap_or_default()
    }

    /// How many bytes the device may read.
    pub fn readable_len(&self) -> u32 {
        self.0.readable_len
    }

    /// How many bytes the device may write.
    pub fn writable_len(&self) -> u32 {
        self.0.writable_len
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if self.live {
            self.dropped.fetch_add(1, Ordering::Release);
        }
    }
}

/// The bytes `skip..skip + len` of some segments, as far as they go.
pub fn part(segs: &[Seg], skip: u64, len: u64) -> impl Iterator<Item = Seg> + '_ {
    let (mut skip, mut len) = (skip, len);
    let pieces = segs.iter().map_while(move |seg| {
        let all = u64::from(seg.len);
        let from = skip.min(all);
        let taken = (all - from).min(len);
        let more = len > 0;
        skip -= from;
        len -= taken;
        more.then_some(Seg { addr: GuestAddress(seg.addr.0.wrapping_add(from)), len: taken as u32 })
    });
    pieces.filter(|seg| seg.len > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_may_begin_and_end_anywhere() {
        let seg = |addr, len| Seg { addr: GuestAddress(addr), len };
        let segs = [seg(100, 10), seg(200, 0), seg(300, 5), seg(u64::MAX - 1, 8)];
        let bytes: Vec<u64> =
            (100..110).chain(300..305).chain((0..8).map(|i| (u64::MAX - 1).wrapping_add(i))).collect();
        for skip in 0..25 {
            for len in 0..25 {
                let of = |s: Seg| (0..u64::from(s.len)).map(move |i| s.addr.0.wrapping_add(i));
                let got: Vec<u64> = part(&segs, skip, len).flat_map(of).collect();
                let want: Vec<u64> = bytes.iter().copied().skip(skip as usize).take(len as usize).collect();
                assert_eq!(got, want, "{skip} {len}");
            }
        }
    }
}
