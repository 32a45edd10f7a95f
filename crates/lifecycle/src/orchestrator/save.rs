//! A machine as a value.
//!
//! The order is a contract. **Saving:** the machine is paused (vCPUs, then devices, which finish what is in flight, then interrupt
//! controllers, then back ends), so that nothing asks for work, nothing is in flight, and no part's state changes while others are saved. **Restoring:**
//! freshly built parts take their state over in the order of resuming (back ends, interrupt controllers, devices, vCPUs:
//! what a part stands on comes before it), all of them before any is resumed.

use super::Orchestrator;
use crate::{Cause, Error, State, Verb};
use drystone_state::{Blob, RestoreError};

/// What was saved of one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedPart {
    /// The name under which it was added.
    pub name: String,
    /// Its state.
    pub state: Blob,
}

impl Orchestrator {
    /// Whether all components can be saved. Asked before anything is paused.
    ///
    /// # Errors
    /// [`Error::Unsavable`] with the names of those that cannot.
    pub fn savable(&self) -> Result<(), Error> {
        let cannot = self.parts.iter().filter(|p| p.component.persist().is_none());
        let names: Vec<_> = cannot.map(|p| p.name.clone()).collect();
        if names.is_empty() { Ok(()) } else { Err(Error::Unsavable(names)) }
    }

    /// The state of every part, in the order of pausing. The machine stays as it is.
    ///
    /// # Errors
    /// [`Error::Illegal`] unless `Paused`, [`Error::NotStill`] if it is [stuck](Self::is_stuck), [`Error::Unsavable`],
    /// [`Error::Save`].
    pub fn save(&self) -> Result<Vec<SavedPart>, Error> {
        self.state().next(Verb::Save)?;
        if self.stuck {
            return Err(Error::NotStill);
        }
        self.savable()?;
        // All can be saved, as was just seen.
        let parts = self.parts.iter().filter_map(|p| Some((&p.name, p.component.persist()?)));
        let save = |(name, part): (&String, &dyn drystone_state::PersistDyn)| match part.save_blob() {
            Ok(state) => Ok(SavedPart { name: name.clone(), state }),
            Err(cause) => Err(Error::Save { name: name.clone(), cause }),
        };
        parts.map(save).collect()
    }

    /// Has every part take over its state from `saved`, which is untrusted; the machine is then paused.
    ///
    /// # Errors
    /// [`Error::Illegal`] unless `Built`. [`Error::OtherParts`] unless `saved` has exactly this machine's parts. [`Error::Restore`] if
    /// one refuses: the machine has then ended, as it is neither the old nor the new.
    pub fn restore(&mut self, saved: &[SavedPart]) -> Result<(), Error> {
        self.state().next(Verb::Restore)?;
        self.same_parts(saved)?;
        for part in self.parts.iter().rev() {
            let state = saved.iter().find(|s| s.name == part.name).map(|s| &s.state);
            let restored = match (part.component.persist(), state) {
                (Some(component), Some(state)) => component.restore_blob(state),
                _ => Err(RestoreError::Invalid { kind: "part", cause: "it cannot be restored".into() }),
            };
            if let Err(cause) = restored {
                let error = Error::Restore { name: part.name.clone(), cause };
                self.end(Cause::Fault(error.to_string()));
                return Err(self.tell(error));
            }
        }
        self.enter(State::Paused, Cause::Restored);
        Ok(())
    }

    fn same_parts(&self, saved: &[SavedPart]) -> Result<(), Error> {
        let of_state = |name: &str| saved.iter().filter(|s| s.name == name).count();
        let of_machine = |name: &str| self.parts.iter().any(|p| p.name == name);
        let missing: Vec<_> = self.names().filter(|n| of_state(n) == 0).map(String::from).collect();
        // A part that is there twice is one too many.
        let extra = saved.iter().filter(|s| !of_machine(&s.name) || of_state(&s.name) > 1);
        let unknown: Vec<_> = extra.map(|s| s.name.clone()).collect();
        if missing.is_empty() && unknown.is_empty() {
            return Ok(());
        }
        Err(Error::OtherParts { missing, unknown })
    }
}
