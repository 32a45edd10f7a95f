mod placement;

use crate::{Bar, CONFIG_SIZE, Function, HostBridge, Windows, WindowsError};
use arc_swap::ArcSwap;
use drystone_bus::{BusDevice, Effect};
use placement::Placement;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// How many slots a bus has.
pub const SLOTS: u8 = 32;
/// Functions per slot; each slot's function is number 0, and the others are not there.
const FUNCTIONS: u64 = 8;
/// What the name of a host bridge in ACPI has a digit for.
const MAX_NUMBER: u16 = 15;

/// Why a slot could not be filled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SlotError {
    /// Another function is there.
    #[error("PCI slot {0} is taken")]
    Taken(u8),
    /// There is no such slot.
    #[error("PCI slot {0}: a bus has slots 0 to 31")]
    Number(u8),
    /// All are taken.
    #[error("no PCI slot is free: a bus has 32")]
    Full,
    /// No place is left for a BAR.
    #[error("PCI slot {slot}: BAR {bar} of {size:#x} bytes fits into no window")]
    NoRoom {
        /// The slot.
        slot: u8,
        /// The BAR.
        bar: usize,
        /// Its size in bytes or ports.
        size: u64,
    },
}

/// Why there can be no such segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// The number is too large.
    #[error("PCI segment {0}: numbers go up to 15")]
    Number(u16),
    /// Its windows make no sense.
    #[error(transparent)]
    Windows(#[from] WindowsError),
}

type Slots = Vec<Option<Arc<dyn Function>>>;

/// Where a BAR goes; nowhere if there is no room.
struct Place {
    index: usize,
    bar: Bar,
    base: Option<u64>,
}

/// A PCI segment with one bus, number 0, of 32 slots, and its configuration space as ECAM shows it
/// (PCI Express 6.0, 7.2.2).
///
/// Functions come and go while vCPUs run. [`read`](Self::read) and [`write`](Self::write) take no lock of the segment's;
/// as a [`BusDevice`] it is put at the address that the guest is told.
pub struct Segment {
    number: u16,
    windows: Windows,
    slots: ArcSwap<Slots>,
    changes: Mutex<()>,
    placement: Placement,
}

impl Segment {
    /// The size of its configuration space in bytes, one bus of 1 MiB. Its address is a multiple of this.
    pub const ECAM_LEN: u64 = SLOTS as u64 * FUNCTIONS * CONFIG_SIZE as u64;

    /// A segment with `bridge` in slot 0 and nothing else. `number` is 0 for a machine's first; `windows` is where BARs may
    /// be.
    ///
    /// # Errors
    /// [`SegmentError`] for a number above 15, and for windows that make no sense.
    pub fn new(number: u16, windows: Windows, bridge: Arc<HostBridge>) -> Result<Self, SegmentError> {
        if number > MAX_NUMBER {
            return Err(SegmentError::Number(number));
        }
        windows.check()?;
        let mut slots: Slots = vec![None; SLOTS.into()];
        if let Some(first) = slots.first_mut() {
            *first = Some(bridge);
        }
        let slots = ArcSwap::from_pointee(slots);
        Ok(Self { number, windows, slots, changes: Mutex::default(), placement: Placement::default() })
    }

    /// Its number, `_SEG` in ACPI.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Where BARs may be.
    pub fn windows(&self) -> &Windows {
        &self.windows
    }

    /// Puts `function` into `slot`, or into the lowest that is free, and gives each of its BARs an address that nobody has, or will
    /// have after a reset. Returns the slot. The guest sees it at once if it looks; it is told by whoever serves hot plug.
    ///
    /// # Errors
    /// [`SlotError`]; the bus is then unchanged.
    pub fn add(&self, slot: Option<u8>, function: Arc<dyn Function>) -> Result<u8, SlotError> {
        self.fill(slot, function, true)
    }

    /// Puts `function` into the slot that it was saved in, and that its state, restored next, goes with: that says where its BARs are.
    /// Functions that came and went have left gaps which others, added in order, do not; so a BAR for which there is no room here
    /// is no error. Such a one is at address 0 after a reset, for the guest to find a place.
    ///
    /// # Errors
    /// [`SlotError::Taken`], [`SlotError::Number`]; the bus is then unchanged.
    pub fn add_saved(&self, slot: u8, function: Arc<dyn Function>) -> Result<(), SlotError> {
        self.fill(Some(slot), function, false).map(|_| ())
    }

    /// `all_fit`: a BAR without a place is an error.
    fn fill(&self, slot: Option<u8>, function: Arc<dyn Function>, all_fit: bool) -> Result<u8, SlotError> {
        let _one_at_a_time = crate::lock(&self.changes);
        let mut slots = Slots::clone(&self.slots.load());
        let slot = match slot {
            Some(slot) => slot,
            None => (0..SLOTS).zip(&slots).find(|(_, s)| s.is_none()).ok_or(SlotError::Full)?.0,
        };
        match slots.get(usize::from(slot)) {
            None => return Err(SlotError::Number(slot)),
            Some(Some(_)) => return Err(SlotError::Taken(slot)),
            Some(None) => {}
        }
        let places = self.places(function.as_ref(), &slots);
        if let Some(lacking) = places.iter().find(|place| all_fit && place.base.is_none()) {
            return Err(SlotError::NoRoom { slot, bar: lacking.index, size: lacking.bar.size });
        }
        function.config().with(|config| {
            places.iter().for_each(|p| p.base.into_iter().for_each(|base| config.place(p.index, base)));
        });
        if let Some(place) = slots.get_mut(usize::from(slot)) {
            *place = Some(function);
        }
        self.slots.store(Arc::new(slots));
        Ok(slot)
    }

    /// Where the BARs of `function` can be, beside those of `slots`.
    fn places(&self, function: &dyn Function, slots: &Slots) -> Vec<Place> {
        let claims = |f: &Arc<dyn Function>| f.config().with(|c| c.claims());
        let mut taken: Vec<_> = slots.iter().flatten().flat_map(claims).collect();
        let mut places = Vec::new();
        for (index, bar) in function.config().with(|c| c.bars().collect::<Vec<_>>()) {
            let io = bar.kind == crate::BarKind::Io;
            let same: Vec<Range<u64>> = taken.iter().filter(|t| t.0 == io).map(|t| t.1.clone()).collect();
            let base = self.windows.place(bar, &same);
            taken.extend(base.map(|base| (io, base..base.saturating_add(bar.size))));
            places.push(Place { index, bar, base });
        }
        places
    }

    /// Takes the function out of `slot`, at once and whatever the guest is doing with it. Its BARs stay on the bus until
    /// the next [`relocate`](Self::relocate), which the caller asks for.
    pub fn remove(&self, slot: u8) -> Option<Arc<dyn Function>> {
        let _one_at_a_time = crate::lock(&self.changes);
        let mut slots = Slots::clone(&self.slots.load());
        let removed = slots.get_mut(usize::from(slot))?.take()?;
        self.slots.store(Arc::new(slots));
        Some(removed)
    }

    /// The function in `slot`.
    pub fn function(&self, slot: u8) -> Option<Arc<dyn Function>> {
        self.slots.load().get(usize::from(slot)).cloned().flatten()
    }

    /// The guest reads `data.len()` bytes of ECAM. What is not there reads as ones.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((slot, register)) = locate(offset, data.len())
            && let Some(Some(function)) = self.slots.load().get(slot)
        {
            function.config_read(register, data);
        }
    }

    /// The guest writes `data` to ECAM. [`Effect::Relocate`] if a function thereby claims other addresses: the caller then
    /// calls [`relocate`](Self::relocate).
    pub fn write(&self, offset: u64, data: &[u8]) -> Effect {
        match locate(offset, data.len()) {
            Some((slot, register)) => match self.function(slot as u8) {
                Some(function) => function.config_write(register, data),
                None => Effect::None,
            },
            None => Effect::None,
        }
    }
}

/// The slot and register behind an offset in ECAM, if it is that of a function 0 and the access stays in its registers.
fn locate(offset: u64, len: usize) -> Option<(usize, u16)> {
    let size = u64::from(CONFIG_SIZE);
    let (function, register) = (offset / size, offset % size);
    let within = register.checked_add(u64::try_from(len).ok()?)? <= size;
    let slot = function / FUNCTIONS;
    let exists = within && function.is_multiple_of(FUNCTIONS) && slot < SLOTS.into();
    exists.then_some((usize::try_from(slot).ok()?, u16::try_from(register).ok()?))
}

impl BusDevice for Segment {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.read(offset, data);
    }
    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        self.write(offset, data)
    }
}

#[cfg(test)]
mod tests;
