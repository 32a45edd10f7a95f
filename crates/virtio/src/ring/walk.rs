use super::span::{Areas, DESCRIPTOR, Span};
use crate::chain::Body;
use crate::{Fault, Seg};
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

/// Of a chain without writable segments.
const NONE_WRITABLE: usize = usize::MAX;

/// Fills `chain` with the segments of the chain at `head`. Every way in which a chain can be wrong is an error, never a
/// shorter chain.
pub(super) fn walk<M: Mem>(
    areas: &Areas<'_, M>,
    head: u16,
    indirect: bool,
    chain: &mut Body,
) -> Result<(), Wrong> {
    chain.split = NONE_WRITABLE;
    if let Some(d) = follow(chain, &areas.descriptors, areas.size.into(), head)? {
        if !indirect {
            return Err(Wrong::Ring("indirect descriptor, not negotiated"));
        }
        let count = d.len() / DESCRIPTOR as u32;
        if count == 0 || d.len() % DESCRIPTOR as u32 != 0 || count > MAX_CHAIN {
            return Err(Wrong::Ring("length of an indirect table"));
        }
        let memory = areas.descriptors.memory();
        let table = Span::<M>::new(memory, d.addr().0, d.len() as usize, Permissions::Read)?;
        if follow(chain, &table, count, 0)?.is_some() {
            return Err(Wrong::Ring("indirect descriptor in an indirect table"));
        }
    }
    chain.split = chain.split.min(chain.segs.len());
    Ok(())
}

/// Collects segments from a table of `count` descriptors until the chain ends, or until an indirect descriptor, which
/// is returned.
fn follow<M: Mem>(
    chain: &mut Body,
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
        take(chain, &d)?;
        if !d.has_next() {
            return Ok(None);
        }
        index = d.next();
    }
    Err(Wrong::Ring("chain too long, or a loop"))
}

#[inline]
fn take(chain: &mut Body, d: &Descriptor) -> Result<(), Wrong> {
    let (readable, writable) = (chain.readable_len, chain.writable_len);
    // The driver must not make a chain longer than 2^32 bytes (2.7.5.2); one byte less keeps sums in 32 bits.
    if readable.checked_add(writable).and_then(|n| n.checked_add(d.len())).is_none() {
        return Err(Wrong::Ring("chain longer than 4 GiB"));
    }
    if d.is_write_only() {
        chain.split = chain.split.min(chain.segs.len());
        chain.writable_len = writable.wrapping_add(d.len());
    } else if chain.split == NONE_WRITABLE {
        chain.readable_len = readable.wrapping_add(d.len());
    } else {
        return Err(Wrong::Ring("readable descriptor after a writable one"));
    }
    chain.segs.push(Seg { addr: d.addr(), len: d.len() });
    Ok(())
}
