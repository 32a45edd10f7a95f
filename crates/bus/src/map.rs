use crate::{BusDevice, Effect, Relocate};
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a range could not be put on a map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The range is empty or ends past the last address.
    #[error("range {base:#x}+{len:#x} is empty or leaves the address space")]
    Invalid {
        /// First address.
        base: u64,
        /// Length in addresses.
        len: u64,
    },
    /// Another device has a part of the range.
    #[error("range {base:#x}+{len:#x} overlaps {other:#x}+{other_len:#x}")]
    Overlap {
        /// First address.
        base: u64,
        /// Length in addresses.
        len: u64,
        /// First address of the range already there.
        other: u64,
        /// Its length.
        other_len: u64,
    },
}

#[derive(Clone)]
struct Range {
    base: u64,
    /// The last address in the range; inclusive, so that a range may end at the very last address.
    last: u64,
    device: Arc<dyn BusDevice>,
}

/// A space of addresses with devices on it. Look-ups take no lock; changes swap the whole table, so a device may
/// come or go while vCPUs run.
pub struct AddressMap {
    /// Sorted by base, without overlaps.
    ranges: ArcSwap<Vec<Range>>,
    changes: Mutex<()>,
    unclaimed: AtomicU64,
}

impl Default for AddressMap {
    fn default() -> Self {
        Self::new()
    }
}

impl AddressMap {
    /// An empty map.
    pub fn new() -> Self {
        Self { ranges: ArcSwap::default(), changes: Mutex::new(()), unclaimed: AtomicU64::new(0) }
    }

    /// Puts `device` at `base`, for `len` addresses.
    ///
    /// # Errors
    /// [`MapError::Invalid`] for an empty or overlong range, [`MapError::Overlap`] if it is not free. The map is
    /// then unchanged.
    pub fn insert(&self, base: u64, len: u64, device: Arc<dyn BusDevice>) -> Result<(), MapError> {
        let last = len.checked_sub(1).and_then(|n| base.checked_add(n));
        let last = last.ok_or(MapError::Invalid { base, len })?;
        let _one_at_a_time = self.changes.lock().unwrap_or_else(|e| e.into_inner());
        let mut ranges = Vec::clone(&self.ranges.load());
        let at = ranges.partition_point(|r| r.last < base);
        if let Some(r) = ranges.get(at).filter(|r| r.base <= last) {
            let other_len = (r.last - r.base).saturating_add(1);
            return Err(MapError::Overlap { base, len, other: r.base, other_len });
        }
        ranges.insert(at, Range { base, last, device });
        self.ranges.store(Arc::new(ranges));
        Ok(())
    }

    /// Takes the device that starts at `base` off the map. An access already under way still finishes on it.
    pub fn remove(&self, base: u64) -> Option<Arc<dyn BusDevice>> {
        let _one_at_a_time = self.changes.lock().unwrap_or_else(|e| e.into_inner());
        let mut ranges = Vec::clone(&self.ranges.load());
        let at = ranges.iter().position(|r| r.base == base)?;
        let removed = ranges.remove(at);
        self.ranges.store(Arc::new(ranges));
        Some(removed.device)
    }

    /// Reads `data.len()` bytes at `addr`. What no device claims reads as all ones.
    pub fn read(&self, addr: u64, data: &mut [u8]) {
        data.fill(0xff);
        match find(&self.ranges.load(), addr, data.len()) {
            Some((range, offset)) => range.device.read(offset, data),
            None => self.count_unclaimed(),
        }
    }

    /// Writes `data` at `addr`. What no device claims is dropped.
    pub fn write(&self, addr: u64, data: &[u8]) -> Effect {
        match find(&self.ranges.load(), addr, data.len()) {
            Some((range, offset)) => range.device.write(offset, data),
            None => {
                self.count_unclaimed();
                Effect::None
            }
        }
    }

    /// How many accesses no device has claimed. A guest can make as many as it likes, so they are counted and
    /// not logged.
    pub fn unclaimed(&self) -> u64 {
        self.unclaimed.load(Ordering::Relaxed)
    }

    fn count_unclaimed(&self) {
        self.unclaimed.fetch_add(1, Ordering::Relaxed);
    }
}

/// The range that holds all of `addr..addr+len`, and the offset in it. An access across a range's end belongs to
/// nobody: real devices do not see it either.
fn find(ranges: &[Range], addr: u64, len: usize) -> Option<(&Range, u64)> {
    let last = addr.checked_add(u64::try_from(len).ok()?.checked_sub(1)?)?;
    let range = ranges.get(ranges.partition_point(|r| r.last < addr))?;
    (range.base <= addr && last <= range.last).then(|| (range, addr - range.base))
}

/// The two address spaces of an x86 machine.
#[derive(Default)]
pub struct Bus {
    /// Port I/O; 16-bit addresses.
    pub pio: AddressMap,
    /// Memory-mapped I/O; guest-physical addresses.
    pub mmio: AddressMap,
    relocators: ArcSwap<Vec<Arc<dyn Relocate>>>,
}

impl Bus {
    /// Has `relocator` asked whenever a write's effect is [`Effect::Relocate`], for as long as the bus lives.
    pub fn add_relocator(&self, relocator: Arc<dyn Relocate>) {
        self.relocators.rcu(|all| all.iter().chain([&relocator]).cloned().collect::<Vec<_>>());
    }

    /// Applies [`Effect::Relocate`]: everybody who moves ranges on this bus puts them where the guest wants them.
    /// Must not be called with a device's lock held.
    pub fn relocate(&self) {
        self.relocators.load().iter().for_each(|r| r.relocate(self));
    }
}

#[cfg(test)]
mod tests;
