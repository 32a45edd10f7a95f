use super::{ConfigSpace, ConfigState};
use crate::{Msix, lock};
use drystone_bus::Effect;
use drystone_state::{Persist, RestoreError, SaveError, Schema};
use std::sync::Mutex;

/// A function's registers: its [`ConfigSpace`] behind a lock, and its MSI-X structures if it has any. What a function
/// keeps, and vCPUs read and write.
pub struct Config {
    space: Mutex<ConfigSpace>,
    msix: Option<Msix>,
}

impl Config {
    /// Guards a configuration space that is complete.
    pub fn new(space: ConfigSpace) -> Self {
        Self { space: Mutex::new(space), msix: None }
    }

    /// As [`new`](Self::new), for a function that sends interrupts. `msix` was made with `space`.
    pub fn with_msix(space: ConfigSpace, msix: Msix) -> Self {
        Self { space: Mutex::new(space), msix: Some(msix) }
    }

    /// The function's MSI-X structures.
    pub fn msix(&self) -> Option<&Msix> {
        self.msix.as_ref()
    }

    /// Looks at it, or changes it as the device. `act` must not call whatever reads or writes this function.
    pub fn with<T>(&self, act: impl FnOnce(&mut ConfigSpace) -> T) -> T {
        act(&mut lock(&self.space))
    }

    /// The guest reads from `offset` on.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        self.with(|space| space.read(offset, data));
    }

    /// The guest writes from `offset` on. [`Effect::Relocate`] if the function thereby claims other addresses.
    pub fn write(&self, offset: u16, data: &[u8]) -> Effect {
        self.write_then(offset, data, |_| ())
    }

    /// As [`write`](Self::write), and then does `and` before anybody else sees the outcome.
    pub fn write_then(&self, offset: u16, data: &[u8], and: impl FnOnce(&ConfigSpace)) -> Effect {
        self.with(|space| {
            let before = space.decoded();
            space.write(offset, data);
            self.msix.iter().for_each(|msix| msix.follow(space));
            and(space);
            if space.decoded() == before { Effect::None } else { Effect::Relocate }
        })
    }

    /// Every register as it was when the function was put together, and every BAR where it was last placed. What the
    /// function claims has to be brought up to date afterwards: see [`Segment::relocate`](crate::Segment::relocate).
    pub fn reset(&self) {
        let Self { space, msix } = self;
        lock(space).reset();
        msix.iter().for_each(Msix::reset);
    }
}

impl Persist for Config {
    type State = ConfigState;

    fn save(&self) -> Result<ConfigState, SaveError> {
        let registers = self.with(|space| space.save());
        Ok(ConfigState { registers, msix: self.msix.as_ref().map(Msix::save) })
    }

    fn restore(&self, state: ConfigState) -> Result<(), RestoreError> {
        let ConfigState { registers, msix } = state;
        let invalid = |cause| RestoreError::Invalid { kind: ConfigState::KIND, cause };
        match (&self.msix, &msix) {
            (Some(own), Some(state)) => own.check(state).map_err(invalid)?,
            (None, None) => {}
            _ => return Err(invalid("it must have MSI-X structures if and only if the function has".into())),
        }
        self.with(|space| {
            space.restore(&registers).map_err(invalid)?;
            if let (Some(own), Some(state)) = (&self.msix, &msix) {
                own.restore(state);
                own.follow(space);
            }
            Ok(())
        })
    }
}
