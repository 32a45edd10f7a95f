use super::Segment;
use crate::{Bar, BarKind, Decoded, Function, read_bar, write_bar};
use drystone_bus::{AddressMap, Bus, BusDevice, Effect, Relocate};
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// The BARs that are on the bus now.
#[derive(Default)]
pub(super) struct Placement(Mutex<Vec<Placed>>);

/// A BAR of a function at an address.
#[derive(Clone)]
struct Placed {
    function: Arc<dyn Function>,
    index: usize,
    bar: Bar,
    base: u64,
}

impl Placed {
    fn range(&self) -> Range<u64> {
        self.base..self.base.saturating_add(self.bar.size)
    }

    fn is_io(&self) -> bool {
        self.bar.kind == BarKind::Io
    }

    fn overlaps(&self, other: &Self) -> bool {
        let (a, b) = (self.range(), other.range());
        self.is_io() == other.is_io() && a.start < b.end && b.start < a.end
    }

    fn same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.function, &other.function) && self.index == other.index && self.base == other.base
    }

    fn map<'a>(&self, bus: &'a Bus) -> &'a AddressMap {
        if self.is_io() { &bus.pio } else { &bus.mmio }
    }

    /// Whether the bus had room: something that is not PCI may be in the window.
    fn insert(&self, bus: &Bus) -> bool {
        let device = BarDevice { function: self.function.clone(), index: self.index };
        self.map(bus).insert(self.base, self.bar.size, Arc::new(device)).is_ok()
    }

    fn remove(&self, bus: &Bus) {
        self.map(bus).remove(self.base);
        self.function.bar_moved(self.index, None);
    }
}

impl Segment {
    /// Puts every BAR on `bus` where the guest wants it, and takes off what is no longer claimed. A BAR that leaves the
    /// segment's windows, or overlaps one of a lower slot or index, or something else on the bus, is claimed by nobody
    /// until the guest moves one of them: its addresses read as ones, or as the other's.
    ///
    /// Always for the same bus. Called after [`Effect::Relocate`], after a function was added or removed, and before a
    /// machine goes on after a reset or a restore. Must not be called with a device's lock held.
    pub fn relocate(&self, bus: &Bus) {
        let mut placed = crate::lock(&self.placement.0);
        let wanted = self.wanted();
        placed.retain(|old| {
            let stays = wanted.iter().any(|new| new.same_as(old));
            if !stays {
                old.remove(bus);
            }
            stays
        });
        for new in wanted {
            if !placed.iter().any(|old| old.same_as(&new)) && new.insert(bus) {
                new.function.bar_moved(new.index, Some(new.base));
                placed.push(new);
            }
        }
    }

    /// What belongs on the bus: depends on nothing but what is in the functions' registers.
    fn wanted(&self) -> Vec<Placed> {
        let mut wanted: Vec<Placed> = Vec::new();
        for function in self.slots.load().iter().flatten() {
            for Decoded { index, bar, base } in function.config().with(|c| c.decoded()) {
                let new = Placed { function: function.clone(), index, bar, base };
                let free = !wanted.iter().any(|other| other.overlaps(&new));
                if free && self.windows.allow(bar.kind, base, bar.size) {
                    wanted.push(new);
                }
            }
        }
        wanted
    }
}

impl Relocate for Segment {
    fn relocate(&self, bus: &Bus) {
        self.relocate(bus);
    }
}

/// A BAR as a device on the bus.
struct BarDevice {
    function: Arc<dyn Function>,
    index: usize,
}

impl BusDevice for BarDevice {
    fn read(&self, offset: u64, data: &mut [u8]) {
        read_bar(&*self.function, self.index, offset, data);
    }
    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        write_bar(&*self.function, self.index, offset, data)
    }
}
