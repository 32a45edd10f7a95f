mod latch;
mod state;
mod table;

pub use latch::Latch;
pub use state::MsixState;

use crate::{BarKind, CapabilityError, ConfigSpace, lock};
use drystone_bus::Interrupt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use table::{ENTRY, Entry};

const CAPABILITY: u8 = 0x11;
/// The most vectors that the capability has bits for.
const MAX_VECTORS: usize = 2048;
const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;

/// An interrupt message: a write of `data` to `address`, which an interrupt controller takes (Intel SDM volume 3, 12.11).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Message {
    /// Where to; a multiple of 4.
    pub address: u64,
    /// What.
    pub data: u32,
}

/// Why a message could not be set.
pub type VectorError = Box<dyn std::error::Error + Send + Sync>;

/// One vector's way to the guest. The device triggers it, from any thread; the table says which message that sends.
///
/// Behind it is an event that the hypervisor turns into a message by itself (KVM's irqfd with a route of its own), or a
/// [`Latch`].
pub trait Vector: Interrupt {
    /// What a trigger sends from now on. `None`, as in the beginning, holds it back: however often it is triggered
    /// meanwhile, the next message that is set is then sent once.
    ///
    /// # Errors
    /// When the hypervisor refuses. Nothing has changed then.
    fn set(&self, message: Option<Message>) -> Result<(), VectorError>;

    /// Whether it was triggered while it was held back, and waits.
    fn is_pending(&self) -> bool;

    /// Forgets a trigger that waits.
    fn clear_pending(&self);
}

/// Where a function's MSI-X structures are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsixPlace {
    /// The BAR that has both.
    pub bar: usize,
    /// Offset of the table in it: 16 bytes a vector.
    pub table: u32,
    /// Offset of the pending bit array: a bit a vector, in whole 8 bytes.
    pub pending: u32,
}

/// Why a function cannot have such an MSI-X capability.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MsixError {
    /// Too few or too many.
    #[error("MSI-X with {0} vectors: 1 to 2048 are possible")]
    Vectors(usize),
    /// The structures are not where they can be.
    #[error("MSI-X structures at {table:#x} and {pending:#x} of BAR {bar}: {why}", bar = place.bar, table = place.table, pending = place.pending)]
    Place {
        /// What was asked for.
        place: MsixPlace,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Configuration space has no room.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
}

/// A function's MSI-X table and pending bits (PCI Express 6.0, 6.1.4.2 and 7.7.2), in the memory of one of its BARs.
///
/// A vector is held back while the function's bit 15 (enable) is clear, its bit 14 (function mask) is set, the entry's
/// mask bit is set, or the function may not reach memory. A trigger meanwhile is a pending bit, and is sent once when all
/// of that is over. Triggers never touch the table: they go to the [`Vector`] alone.
pub struct Msix {
    capability: u16,
    place: MsixPlace,
    vectors: Vec<Arc<dyn Vector>>,
    enabled: AtomicBool,
    inner: Mutex<Inner>,
}

struct Inner {
    entries: Vec<Entry>,
    /// The function as a whole may send.
    open: bool,
    /// How often a vector refused a message.
    failures: u64,
}

impl Msix {
    /// Adds the capability to `space`, whose BAR `place.bar` must be there already and leave room for the structures.
    /// All vectors begin masked.
    ///
    /// # Errors
    /// [`MsixError`]; `space` is then unchanged.
    pub fn new(
        space: &mut ConfigSpace,
        place: MsixPlace,
        vectors: Vec<Arc<dyn Vector>>,
    ) -> Result<Self, MsixError> {
        let count = vectors.len();
        let last = count.checked_sub(1).filter(|_| count <= MAX_VECTORS);
        let last = last.and_then(|last| u16::try_from(last).ok()).ok_or(MsixError::Vectors(count))?;
        check(space, place, count).map_err(|why| MsixError::Place { place, why })?;
        let bar = u32::try_from(place.bar).unwrap_or(0);
        let mut body = last.to_le_bytes().to_vec();
        body.extend((place.table | bar).to_le_bytes());
        body.extend((place.pending | bar).to_le_bytes());
        let writable = (ENABLE | FUNCTION_MASK).to_le_bytes();
        let capability = space.add_capability(CAPABILITY, &body, &writable)?;
        let inner = Mutex::new(Inner { entries: vec![Entry::default(); count], open: false, failures: 0 });
        Ok(Self { capability, place, vectors, enabled: AtomicBool::new(false), inner })
    }

    /// How a device triggers vector `number`.
    pub fn interrupt(&self, number: u16) -> Option<Arc<dyn Interrupt>> {
        self.vectors.get(usize::from(number)).map(|v| Arc::new(Trigger(v.clone())) as Arc<dyn Interrupt>)
    }

    /// Whether the guest takes messages from the function at all (bit 15 of the capability's control), masked or not.
    /// Takes no lock.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::SeqCst)
    }

    /// How often the hypervisor refused a message that the guest had set; the vector sends its old one, or none.
    pub fn failures(&self) -> u64 {
        lock(&self.inner).failures
    }

    /// The guest has changed the function's registers.
    pub(crate) fn follow(&self, space: &ConfigSpace) {
        let control = space.u16(self.capability.saturating_add(2));
        self.enabled.store(control & ENABLE != 0, Ordering::SeqCst);
        let open = control & ENABLE != 0 && control & FUNCTION_MASK == 0 && space.bus_master();
        let mut inner = lock(&self.inner);
        inner.open = open;
        inner.apply(0..self.vectors.len(), &self.vectors);
    }

    /// The guest reads in a BAR. Whether the access was for the table or the pending bits.
    pub(crate) fn read(&self, bar: usize, offset: u64, data: &mut [u8]) -> bool {
        if let Some(at) = self.within(bar, offset, &self.table()) {
            let inner = lock(&self.inner);
            for (i, byte) in (at..).zip(data) {
                *byte = inner.entries.get(i / ENTRY).map_or(0, |entry| entry.byte(i % ENTRY));
            }
            return true;
        }
        if let Some(at) = self.within(bar, offset, &self.pending()) {
            data.fill(0);
            for (byte, first) in data.iter_mut().zip((at.saturating_mul(8)..).step_by(8)) {
                for (bit, vector) in self.vectors.iter().skip(first).take(8).enumerate() {
                    *byte |= u8::from(vector.is_pending()) << bit;
                }
            }
            return true;
        }
        false
    }

    /// The guest writes in a BAR. Whether the access was for the table or the pending bits; the latter cannot be written.
    pub(crate) fn write(&self, bar: usize, offset: u64, data: &[u8]) -> bool {
        if let Some(at) = self.within(bar, offset, &self.table()) {
            let mut inner = lock(&self.inner);
            for (i, value) in (at..).zip(data) {
                if let Some(entry) = inner.entries.get_mut(i / ENTRY) {
                    entry.set_byte(i % ENTRY, *value);
                }
            }
            let end = at.saturating_add(data.len()).div_ceil(ENTRY);
            inner.apply(at / ENTRY..end, &self.vectors);
            return true;
        }
        self.within(bar, offset, &self.pending()).is_some()
    }

    /// As they were in the beginning.
    pub(crate) fn reset(&self) {
        self.enabled.store(false, Ordering::SeqCst);
        let mut inner = lock(&self.inner);
        inner.open = false;
        inner.entries.iter_mut().for_each(Entry::reset);
        inner.apply(0..self.vectors.len(), &self.vectors);
        self.vectors.iter().for_each(|vector| vector.clear_pending());
    }

    fn table(&self) -> Range<u64> {
        let start = u64::from(self.place.table);
        start..start.saturating_add((self.vectors.len() * ENTRY) as u64)
    }

    fn pending(&self) -> Range<u64> {
        let start = u64::from(self.place.pending);
        start..start.saturating_add(pending_len(self.vectors.len()))
    }

    /// Where in a structure an access begins.
    fn within(&self, bar: usize, offset: u64, range: &Range<u64>) -> Option<usize> {
        (bar == self.place.bar && range.contains(&offset)).then_some(())?;
        usize::try_from(offset.checked_sub(range.start)?).ok()
    }
}

impl Inner {
    /// Brings vectors up to date with their entries.
    fn apply(&mut self, which: Range<usize>, vectors: &[Arc<dyn Vector>]) {
        let Self { entries, open, failures } = self;
        let some = entries.iter_mut().zip(vectors).skip(which.start).take(which.len());
        for (entry, vector) in some {
            let message = entry.message().filter(|_| *open);
            if message == entry.applied {
                continue;
            }
            match vector.set(message) {
                Ok(()) => entry.applied = message,
                Err(_) => *failures = failures.saturating_add(1),
            }
        }
    }
}

/// A vector as the device sees it.
struct Trigger(Arc<dyn Vector>);

impl Interrupt for Trigger {
    fn trigger(&self) {
        self.0.trigger();
    }
}

fn pending_len(vectors: usize) -> u64 {
    vectors.div_ceil(64) as u64 * 8
}

fn check(space: &ConfigSpace, place: MsixPlace, count: usize) -> Result<(), &'static str> {
    let bar = space.bars().find(|(index, _)| *index == place.bar).map(|(_, bar)| bar);
    let bar = bar.filter(|bar| bar.kind != BarKind::Io).ok_or("there is no such BAR for memory")?;
    if !place.table.is_multiple_of(8) || !place.pending.is_multiple_of(8) {
        return Err("they must begin on a multiple of 8");
    }
    let (table, pending) = (u64::from(place.table), u64::from(place.pending));
    let (table_end, pending_end) = (table + (count * ENTRY) as u64, pending + pending_len(count));
    if table_end > bar.size || pending_end > bar.size {
        return Err("they do not fit into the BAR");
    }
    if table < pending_end && pending < table_end {
        return Err("they overlap");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
