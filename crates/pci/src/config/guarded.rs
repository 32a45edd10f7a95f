use super::{ConfigSpace, ConfigState};
use crate::lock;
use drystone_bus::Effect;
use drystone_state::{Persist, RestoreError, SaveError};
use std::sync::Mutex;

/// A function's [`ConfigSpace`] behind a lock: what a function keeps, and vCPUs read and write.
#[derive(Debug)]
pub struct Config(Mutex<ConfigSpace>);

impl Config {
    /// Guards a configuration space that is complete.
    pub fn new(space: ConfigSpace) -> Self {
        Self(Mutex::new(space))
    }

    /// Looks at it, or changes it as the device. `act` must not call whatever reads or writes this function.
    pub fn with<T>(&self, act: impl FnOnce(&mut ConfigSpace) -> T) -> T {
        act(&mut lock(&self.0))
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
            and(space);
            if space.decoded() == before { Effect::None } else { Effect::Relocate }
        })
    }

    /// Every register as it was when the function was put together, and every BAR where it was last placed. What the
    /// function claims has to be brought up to date afterwards: see [`Segment::relocate`](crate::Segment::relocate).
    pub fn reset(&self) {
        self.with(ConfigSpace::reset);
    }
}

impl Persist for Config {
    type State = ConfigState;

    fn save(&self) -> Result<ConfigState, SaveError> {
        Ok(self.with(|space| space.save()))
    }

    fn restore(&self, state: ConfigState) -> Result<(), RestoreError> {
        self.with(|space| space.restore(&state))
    }
}
