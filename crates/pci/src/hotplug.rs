mod aml;
mod state;

pub use aml::HotPlugHandler;
pub use state::HotPlugState;

use crate::{Function, SLOTS, Segment, SlotError, lock};
use drystone_bus::{BusDevice, Clock, Effect, Interrupt};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Slots of which something has changed; writing 1 acknowledges.
const CHANGED: u64 = 0;
/// Slots that the host wants back; writing 1 acknowledges.
const REQUESTED: u64 = 4;
// At 8, read-only: slots with a function.
/// Write-only: slots that the guest lets go of.
const EJECT: u64 = 12;

/// What a [`HotPlug`] is given.
pub struct HotPlugParts {
    /// The bus whose slots it serves.
    pub segment: Arc<Segment>,
    /// First I/O port of its registers; it takes [`HotPlug::LEN`].
    pub base: u16,
    /// Tells the guest to run [`HotPlugHandler`]: an event of a Generic Event Device.
    pub guest: Arc<dyn Interrupt>,
    /// Tells the host that there is something to [`take`](HotPlug::take).
    pub host: Arc<dyn Interrupt>,
    /// What deadlines are measured with.
    pub clock: Arc<dyn Clock>,
}

/// Something that the host has to know.
pub enum HotPlugEvent {
    /// The guest has let go of a function: it is off the bus, and whoever dropped all else that holds it may end it.
    Ejected {
        /// Where it was.
        slot: u8,
        /// What it was.
        function: Arc<dyn Function>,
        /// Whether the host had asked for it. A guest may also do so by itself.
        requested: bool,
    },
    /// The guest has not let go of a function in time. It is still there, and the guest may still let go of it later; the
    /// host may ask again, or [`pull`](HotPlug::pull) it.
    Overdue {
        /// Where it is.
        slot: u8,
    },
}

/// Why a function cannot be asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EjectError {
    /// Nothing is there, or nothing that came by hot plug can be.
    #[error("PCI slot {0} has no function that can be removed")]
    Empty(u8),
    /// It was asked for already, and the guest still has time.
    #[error("the guest was already asked to let go of PCI slot {0}, and has not answered yet")]
    Pending(u8),
}

/// Adds and removes functions while the guest runs, and tells it (ACPI 6.5, 5.6.6 and 6.3): a block of registers, and the
/// AML that a guest reads and writes them with.
///
/// Slots 1 to 31 of the segment can be plugged; slot 0 has the bridge. An orderly removal asks the guest, which ends what
/// it does with the function and ejects it; what it never ejects is reported when its time is up, and can be [pulled](Self::pull).
/// All methods may be called from any thread.
pub struct HotPlug {
    parts: HotPlugParts,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// As the guest reads it: bit n for slot n.
    changed: u32,
    /// As the guest reads it. It goes when the guest has taken notice.
    requested: u32,
    /// Slots that the guest has been asked for, and until when it has time; `None` if nobody waits for that, or no more.
    waiting: BTreeMap<u8, Option<Duration>>,
    /// How many times the guest took notice that a slot is asked for, without an eject since: so often it may still eject
    /// whatever it finds there then.
    noticed: BTreeMap<u8, u8>,
    events: VecDeque<HotPlugEvent>,
}

impl HotPlug {
    /// How many ports its registers take.
    pub const LEN: u64 = 16;
    /// The slots that it serves, a bit each.
    pub const SLOTS: u32 = !1;

    /// A controller of slots that are as they are.
    pub fn new(parts: HotPlugParts) -> Self {
        Self { parts, inner: Mutex::default() }
    }

    /// Puts `function` into `slot`, or into the lowest that is free, and tells the guest. Returns the slot.
    ///
    /// A guest that was asked twice for what was in a slot may eject twice, and would take the second for what is there by then.
    /// Such a slot comes last, until the guest has ejected it as often as it took notice, or is reset.
    ///
    /// # Errors
    /// As [`Segment::add`].
    pub fn plug(&self, slot: Option<u8>, function: Arc<dyn Function>) -> Result<u8, SlotError> {
        let mut inner = lock(&self.inner);
        let slot = slot.or_else(|| self.quiet_slot(&inner));
        let slot = self.parts.segment.add(slot, function)?;
        inner.changed |= bit(slot);
        drop(inner);
        self.parts.guest.trigger();
        Ok(slot)
    }

    /// Asks the guest to let go of what is in `slot`, and gives it `patience` to do so. What comes of it is a
    /// [`HotPlugEvent`].
    ///
    /// # Errors
    /// [`EjectError`].
    pub fn request(&self, slot: u8, patience: Duration) -> Result<(), EjectError> {
        let until = self.parts.clock.monotonic().saturating_add(patience);
        let inner = lock(&self.inner);
        if !self.can_be_ejected(slot) {
            return Err(EjectError::Empty(slot));
        }
        if inner.waiting.get(&slot).is_some_and(Option::is_some) {
            return Err(EjectError::Pending(slot));
        }
        self.ask(slot, Some(until), inner);
        Ok(())
    }

    /// What is in `slot` is gone for the host, whatever the guest is doing with it: the caller has cut it off from what is behind
    /// it, and it answers as a device that fails. It stays on the bus as that, and nothing new comes into its slot, until the guest
    /// has let go of it, or is reset; the guest is asked, without a limit of time. So a driver that is taken away from it still finds
    /// registers that answer: one that waits for a reset to be over, as Linux's for virtio does, would wait for ever on those of an
    /// empty slot. An earlier [`request`](Self::request) is over, and never [overdue](HotPlugEvent::Overdue).
    ///
    /// # Errors
    /// [`EjectError::Empty`].
    pub fn pull(&self, slot: u8) -> Result<(), EjectError> {
        let mut inner = lock(&self.inner);
        if !self.can_be_ejected(slot) {
            return Err(EjectError::Empty(slot));
        }
        match inner.waiting.get_mut(&slot) {
            // It has been asked, and has not had its time yet.
            Some(until @ Some(_)) => *until = None,
            _ => self.ask(slot, None, inner),
        }
        Ok(())
    }

    /// The lowest free slot that the guest will not eject for something that was there before.
    fn quiet_slot(&self, inner: &Inner) -> Option<u8> {
        let taken = self.present() | !Self::SLOTS;
        (0..SLOTS).find(|slot| taken & bit(*slot) == 0 && !inner.noticed.contains_key(slot))
    }

    fn can_be_ejected(&self, slot: u8) -> bool {
        bit(slot) & Self::SLOTS != 0 && self.parts.segment.function(slot).is_some()
    }

    fn ask(&self, slot: u8, until: Option<Duration>, mut inner: MutexGuard<'_, Inner>) {
        inner.waiting.insert(slot, until);
        inner.requested |= bit(slot);
        drop(inner);
        self.parts.guest.trigger();
    }

    /// What has happened since the last call, in order. Deadlines that have passed are among it, so it is also called at
    /// [`next_deadline`](Self::next_deadline).
    pub fn take(&self) -> Vec<HotPlugEvent> {
        let now = self.parts.clock.monotonic();
        let mut inner = lock(&self.inner);
        let Inner { waiting, events, .. } = &mut *inner;
        for (slot, until) in waiting.iter_mut().filter(|(_, until)| until.is_some_and(|until| until <= now)) {
            *until = None;
            events.push_back(HotPlugEvent::Overdue { slot: *slot });
        }
        std::mem::take(events).into()
    }

    /// When, in the clock's monotonic time, the guest's time for a function is up next.
    pub fn next_deadline(&self) -> Option<Duration> {
        lock(&self.inner).waiting.values().flatten().min().copied()
    }

    /// The guest reads from `offset` on.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let inner = lock(&self.inner);
        let registers = [inner.changed, inner.requested, self.present(), 0].map(u32::to_le_bytes);
        let bytes = registers.as_flattened();
        for (i, byte) in (0..).zip(data) {
            let at = offset.checked_add(i).and_then(|at| usize::try_from(at).ok());
            *byte = at.and_then(|at| bytes.get(at)).copied().unwrap_or(0xff);
        }
    }

    /// The guest writes from `offset` on. [`Effect::Relocate`] when it ejects something.
    pub fn write(&self, offset: u64, data: &[u8]) -> Effect {
        let mut effect = Effect::None;
        for (i, value) in (0..).zip(data) {
            let Some(at) = offset.checked_add(i) else { break };
            let bits = u32::from(*value) << (8 * (at % 4));
            let mut inner = lock(&self.inner);
            match at / 4 * 4 {
                CHANGED => inner.changed &= !bits,
                REQUESTED => inner.take_notice(bits),
                EJECT if self.eject(bits, &mut inner) => effect = Effect::Relocate,
                _ => {}
            }
        }
        if effect != Effect::None {
            self.parts.host.trigger();
        }
        effect
    }

    fn present(&self) -> u32 {
        let slots = (0..SLOTS).filter(|slot| self.parts.segment.function(*slot).is_some());
        slots.fold(0, |bits, slot| bits | bit(slot)) & Self::SLOTS
    }

    /// Takes functions out of the slots in `bits`; whether there were any.
    fn eject(&self, bits: u32, inner: &mut Inner) -> bool {
        let before = inner.events.len();
        for slot in slots(bits) {
            inner.followed(slot);
            if let Some(function) = self.parts.segment.remove(slot) {
                let requested = inner.waiting.remove(&slot).is_some();
                inner.requested &= !bit(slot);
                inner.events.push_back(HotPlugEvent::Ejected { slot, function, requested });
            }
        }
        inner.events.len() > before
    }

    /// The guest starts again: what it was asked for it will not miss. Tells the host what is thereby free.
    fn restart(&self) {
        let mut inner = lock(&self.inner);
        let asked = inner.waiting.keys().fold(0, |bits, slot| bits | bit(*slot));
        let ejected = self.eject(asked, &mut inner);
        (inner.changed, inner.requested) = (0, 0);
        inner.waiting.clear();
        inner.noticed.clear();
        drop(inner);
        if ejected {
            self.parts.host.trigger();
        }
    }
}

impl Inner {
    /// The guest will act on what it acknowledges, also if an eject has made that void since it read it.
    fn take_notice(&mut self, bits: u32) {
        self.requested &= !bits;
        for slot in slots(bits) {
            let times = self.noticed.entry(slot).or_default();
            *times = times.saturating_add(1);
        }
    }

    /// The guest has acted on one notice.
    fn followed(&mut self, slot: u8) {
        if let Entry::Occupied(mut times) = self.noticed.entry(slot) {
            *times.get_mut() -= 1;
            if *times.get() == 0 {
                times.remove();
            }
        }
    }
}

/// The slots in `bits` that can be plugged.
fn slots(bits: u32) -> impl Iterator<Item = u8> {
    (0..SLOTS).filter(move |slot| bits & HotPlug::SLOTS & bit(*slot) != 0)
}

/// The bit of a slot; none for a slot that does not exist.
fn bit(slot: u8) -> u32 {
    1_u32.checked_shl(slot.into()).unwrap_or(0)
}

impl BusDevice for HotPlug {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.read(offset, data);
    }
    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        self.write(offset, data)
    }
}

#[cfg(test)]
mod slots;
#[cfg(test)]
mod tests;
