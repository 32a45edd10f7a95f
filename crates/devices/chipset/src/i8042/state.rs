use super::keyboard::KeyboardState;
use super::{I8042, Inner, STATUS_AUXILIARY, STATUS_TIMEOUT};
use crate::bytes::lock;
use drystone_state::{Component, ComponentError, Persist, PersistDyn, RestoreError, SaveError, Schema};
use serde::{Deserialize, Serialize};

impl Component for I8042 {
    fn pause(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn resume(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn reset(&self) -> Result<(), ComponentError> {
        let Self { inner, interrupt: _ } = self;
        let mut inner = lock(inner);
        let Inner { ram, output_port, answer, pending, last_was_command, keyboard } = &mut *inner;
        let fresh = Inner::default();
        *ram = fresh.ram;
        *output_port = fresh.output_port;
        *answer = fresh.answer;
        *pending = fresh.pending;
        *last_was_command = fresh.last_was_command;
        *keyboard = fresh.keyboard;
        Ok(())
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}

/// The saved state of an [`I8042`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct I8042State {
    /// The controller's RAM; byte 0 is the command byte.
    pub ram: [u8; 32],
    /// The output port.
    pub output_port: u8,
    /// The controller's answer that waits at the data port, and the status bits that belong to it.
    pub answer: Option<(u8, u8)>,
    /// The command that waits for a byte.
    pub pending: Option<u8>,
    /// Whether the last write was to the command port.
    pub last_was_command: bool,
    /// The keyboard.
    pub keyboard: KeyboardState,
}

impl Schema for I8042State {
    const KIND: &'static str = "i8042";
    const VERSION: u32 = 1;
}

impl Persist for I8042 {
    type State = I8042State;

    fn save(&self) -> Result<I8042State, SaveError> {
        let Inner { ram, output_port, answer, pending, last_was_command, keyboard } = &*lock(&self.inner);
        Ok(I8042State {
            ram: *ram,
            output_port: *output_port,
            answer: *answer,
            pending: *pending,
            last_was_command: *last_was_command,
            keyboard: keyboard.clone(),
        })
    }

    /// Signals the interrupt when there is a byte to read: one that was on its way when the state was saved is not part
    /// of it.
    fn restore(&self, state: I8042State) -> Result<(), RestoreError> {
        let invalid = |cause| RestoreError::Invalid { kind: I8042State::KIND, cause };
        if let Some(command) = state.pending.filter(|c| !matches!(c, 0x60..=0x7f | 0xd1..=0xd4)) {
            return Err(invalid(format!("command {command:#x} does not wait for a byte")));
        }
        if let Some((_, from)) = state.answer.filter(|(_, f)| f & !(STATUS_AUXILIARY | STATUS_TIMEOUT) != 0) {
            return Err(invalid(format!("status bits {from:#x} do not belong to a byte")));
        }
        state.keyboard.validate().map_err(invalid)?;
        let I8042State { ram, output_port, answer, pending, last_was_command, keyboard } = state;
        let mut inner = lock(&self.inner);
        *inner = Inner { ram, output_port, answer, pending, last_was_command, keyboard };
        self.signal(&inner);
        Ok(())
    }
}
