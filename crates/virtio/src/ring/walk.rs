use super::span::{Areas, DESCRIPTOR, Span};
use crate::{Chain, Fault, Seg};
use drystone_memory::Mem;
use virtio_queue::desc::split::Descriptor;
use vm_memory::Permissions;

/// The longest chain, direct or indirect. It bounds what a guest can make us keep; Linux stays far below.
const MAX_CHAIN: u32 = 1024;

/// Where a walk goes wrong.
pub(super) enum Wrong {
    Ring(&'static str),
    Memory(Fault),
}

impl From<Fault> for Wrong {
    fn from(fault: Fault) -> Self {
        Self::Memory(fault)
    }
}

/// Fills `chain` with the segments of the chain at `head`. Every way in which a chain can be wrong is an error, never a
/// shorter chain.
pub(super) fn walk<M: Mem>(
    areas: &Areas<'_, M>,
    head: u16,
    indirect: bool,
    chain: &mut Chain,
) -> Result<(), Wrong> {
    let mut walk = Walk { chain, split: None, readable: 0, writable: 0 };
    if let Some(d) = walk.follow(&areas.descriptors, areas.size.into(), head)? {
        if !indirect {
            return Err(Wrong::Ring("indirect descriptor, not negotiated"));
        }
        let count = d.len() / DESCRIPTOR as u32;
        if count == 0 || d.len() % DESCRIPTOR as u32 != 0 || count > MAX_CHAIN {
            return Err(Wrong::Ring("length of an indirect table"));
        }
        let memory = areas.descriptors.memory();
        let table = Span::<M>::new(memory, d.addr().0, d.len() as usize, Permissions::Read)?;
        if walk.follow(&table, count, 0)?.is_some() {
            return Err(Wrong::Ring("indirect descriptor in an indirect table"));
        }
    }
    let Walk { chain, split, readable, writable } = walk;
    chain.split = split.unwrap_or(chain.segs.len());
    (chain.readable_len, chain.writable_len) = (readable, writable);
    Ok(())
}

struct Walk<'c> {
    chain: &'c mut Chain,
    /// Where the first writable segment is, once one was seen.
    split: Option<usize>,
    readable: u32,
    writable: u32,
}

impl Walk<'_> {
    /// Collects segments from a table of `count` descriptors until the chain ends, or until an indirect descriptor, which
    /// is returned.
    fn follow<M: Mem>(
        &mut self,
        table: &Span<'_, M>,
        count: u32,
        mut index: u16,
    ) -> Result<Option<Descriptor>, Wrong> {
        // A chain that visits more descriptors than there are is a loop.
        for _ in 0..count.min(MAX_CHAIN) {
            if u32::from(index) >= count {
                return Err(Wrong::Ring("descriptor index out of range"));
            }
            let d = table.descriptor(index)?;
            if d.refers_to_indirect_table() {
                if d.has_next() {
                    return Err(Wrong::Ring("indirect descriptor with a next"));
                }
                return Ok(Some(d));
            }
            self.take(&d)?;
            if !d.has_next() {
                return Ok(None);
            }
            index = d.next();
        }
        Err(Wrong::Ring("chain too long, or a loop"))
    }

    fn take(&mut self, d: &Descriptor) -> Result<(), Wrong> {
        let writable = d.is_write_only();
        if writable {
            self.split.get_or_insert(self.chain.segs.len());
        } else if self.split.is_some() {
            return Err(Wrong::Ring("readable descriptor after a writable one"));
        }
        // The driver must not make a chain longer than 2^32 bytes (2.7.5.2); one byte less keeps sums in 32 bits.
        let total = self.readable.checked_add(self.writable).and_then(|n| n.checked_add(d.len()));
        if total.is_none() {
            return Err(Wrong::Ring("chain longer than 4 GiB"));
        }
        let sum = if writable { &mut self.writable } else { &mut self.readable };
        *sum = sum.wrapping_add(d.len());
        self.chain.segs.push(Seg { addr: d.addr(), len: d.len() });
        Ok(())
    }
}
