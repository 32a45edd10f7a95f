use super::Ged;
use crate::bytes::lock;
use drystone_state::{Persist, RestoreError, SaveError, Schema};
use serde::{Deserialize, Serialize};

/// The saved state of a [`Ged`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GedState {
    /// Events that the guest has not read yet: bit n for the event that was added as the nth, from 0.
    pub pending: u32,
}

impl Schema for GedState {
    const KIND: &'static str = "ged";
    const VERSION: u32 = 1;
}

impl Persist for Ged {
    type State = GedState;

    fn save(&self) -> Result<GedState, SaveError> {
        Ok(GedState { pending: *lock(&self.line.pending) })
    }

    /// Signals the interrupt when there is something to read: one that was on its way when the state was saved is not
    /// part of it.
    fn restore(&self, state: GedState) -> Result<(), RestoreError> {
        let GedState { pending } = state;
        let events = self.handlers.len();
        if events < Self::MAX_EVENTS && pending >> events != 0 {
            let cause = format!("events {pending:#x} are pending, and this machine has {events}");
            return Err(RestoreError::Invalid { kind: GedState::KIND, cause });
        }
        *lock(&self.line.pending) = pending;
        if pending != 0 {
            self.line.interrupt.trigger();
        }
        Ok(())
    }
}
