use crate::Segment;
use drystone_bus::{Bus, MapError};
use drystone_state::{Component, ComponentError, NoState, Persist, PersistDyn, RestoreError, SaveError};
use std::ops::Range;
use std::sync::Arc;

/// A segment on a bus, as a part of a machine: brings the BARs on the bus up to date whenever the machine goes on, since
/// a reset and a restore change the functions' registers behind the bus's back.
pub struct Attachment {
    segment: Arc<Segment>,
    bus: Arc<Bus>,
    ecam: Range<u64>,
}

impl Attachment {
    /// Puts the segment's ECAM on `bus` at `ecam`, and has it follow [`Effect::Relocate`](drystone_bus::Effect::Relocate).
    ///
    /// # Errors
    /// [`MapError`] when the place is not free.
    pub fn new(segment: Arc<Segment>, bus: Arc<Bus>, ecam: u64) -> Result<Self, MapError> {
        bus.mmio.insert(ecam, Segment::ECAM_LEN, segment.clone())?;
        bus.add_relocator(segment.clone());
        Ok(Self { segment, bus, ecam: ecam..ecam.saturating_add(Segment::ECAM_LEN) })
    }

    /// The segment.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Where its configuration space is: what the guest's memory map has to list as reserved.
    pub fn ecam(&self) -> Range<u64> {
        self.ecam.clone()
    }
}

impl Component for Attachment {
    fn pause(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn resume(&self) -> Result<(), ComponentError> {
        self.segment.relocate(&self.bus);
        Ok(())
    }
    // The functions reset themselves; what follows from that is done before the machine goes on.
    fn reset(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}

/// What is in which slot is given by how the machine was built, and where BARs are by the functions' own states.
impl Persist for Attachment {
    type State = NoState;
    fn save(&self) -> Result<NoState, SaveError> {
        Ok(NoState {})
    }
    fn restore(&self, _: NoState) -> Result<(), RestoreError> {
        Ok(())
    }
}
