use super::{HotPlug, bit};
use crate::lock;
use drystone_state::{Component, ComponentError, Persist, PersistDyn, RestoreError, SaveError, Schema};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The saved state of a [`HotPlug`]. What is in which slot is given by how the machine is built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HotPlugState {
    /// Slots of which the guest has not been told yet that something changed: bit n for slot n.
    pub changed: u32,
    /// Slots of which the guest has not been told yet that the host wants them back.
    pub requested: u32,
    /// Slots that the guest was asked for, ascending, and how many milliseconds it has left; `None` where it was reported
    /// that its time is up, or nobody waits for that.
    pub waiting: Vec<(u8, Option<u64>)>,
    /// Slots that the guest may still eject because it was asked for what is or was there, ascending, and how many times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub noticed: Vec<(u8, u8)>,
}

impl Schema for HotPlugState {
    const KIND: &'static str = "pci-hotplug";
    const VERSION: u32 = 1;
}

impl Persist for HotPlug {
    type State = HotPlugState;

    /// Events that nobody has taken are not part of it: they are taken before a machine is saved.
    fn save(&self) -> Result<HotPlugState, SaveError> {
        let now = self.parts.clock.monotonic();
        let inner = lock(&self.inner);
        if !inner.events.is_empty() {
            let why = "functions that the guest ejected are still to be taken";
            return Err(SaveError::Component(format!("PCI hot plug: {why}")));
        }
        let left =
            |until: &Duration| u64::try_from(until.saturating_sub(now).as_millis()).unwrap_or(u64::MAX);
        let waiting = inner.waiting.iter().map(|(slot, until)| (*slot, until.as_ref().map(left))).collect();
        let noticed = inner.noticed.iter().map(|(slot, times)| (*slot, *times)).collect();
        Ok(HotPlugState { changed: inner.changed, requested: inner.requested, waiting, noticed })
    }

    /// Tells the guest again where it was not told yet; once too often finds nothing to do.
    fn restore(&self, state: HotPlugState) -> Result<(), RestoreError> {
        let HotPlugState { changed, requested, waiting, noticed } = state;
        let invalid = |cause| RestoreError::Invalid { kind: HotPlugState::KIND, cause };
        let asked = waiting.iter().fold(0, |bits, (slot, _)| bits | bit(*slot));
        if changed & !Self::SLOTS != 0 || requested & !asked != 0 {
            return Err(invalid(format!("slots {changed:#x}, {requested:#x} of {asked:#x}")));
        }
        let may_be_noticed = |(slot, times): &(u8, u8)| bit(*slot) & Self::SLOTS != 0 && *times != 0;
        if !is_ascending(&noticed) || !noticed.iter().all(may_be_noticed) {
            return Err(invalid(format!("slots that the guest was told of {noticed:?}")));
        }
        let present = waiting.iter().all(|(slot, _)| bit(*slot) & self.present() != 0);
        if !is_ascending(&waiting) || !present {
            return Err(invalid(format!(
                "asked for slots {asked:#x}, of {:#x} that are there",
                self.present()
            )));
        }
        let now = self.parts.clock.monotonic();
        let until = |left: u64| now.saturating_add(Duration::from_millis(left));
        let mut inner = lock(&self.inner);
        (inner.changed, inner.requested) = (changed, requested);
        inner.waiting = waiting.into_iter().map(|(slot, left)| (slot, left.map(until))).collect();
        inner.noticed = noticed.into_iter().collect();
        drop(inner);
        if changed | requested != 0 {
            self.parts.guest.trigger();
        }
        Ok(())
    }
}

fn is_ascending<T>(slots: &[(u8, T)]) -> bool {
    slots.is_sorted_by(|a, b| a.0 < b.0)
}

impl Component for HotPlug {
    fn pause(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn resume(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn reset(&self) -> Result<(), ComponentError> {
        self.restart();
        Ok(())
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}
