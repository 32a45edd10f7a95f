use drystone_hypervisor::{Clocks, Error, Msi, Vm};
use drystone_state::{Blob, Component, ComponentError, Persist, PersistDyn, RestoreError, SaveError, Schema};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What is in the hypervisor and not in a vCPU: interrupt controllers, timer, clock.
pub(super) struct Board {
    vm: Arc<dyn Vm>,
    /// What its clocks make of a restore.
    clocks: Clocks,
    /// As it was made, which is what a reset leads back to.
    initial: Blob,
}

impl Board {
    /// Takes a VM that nothing has run in.
    pub(super) fn new(vm: Arc<dyn Vm>, clocks: Clocks) -> Result<Self, Error> {
        let initial = vm.save()?;
        Ok(Self { vm, clocks, initial })
    }

    /// Sends a non-maskable interrupt to the vCPU of that number, which is its APIC ID.
    pub(super) fn send_nmi(&self, vcpu: u32) -> Result<(), Error> {
        let id = u8::try_from(vcpu).map_err(|_| Error::Invalid {
            attempt: format!("send a non-maskable interrupt to vCPU {vcpu}"),
            why: "a message reaches APIC IDs up to 255".into(),
        })?;
        self.vm.signal_msi(Msi::nmi(id))
    }
}

impl Component for Board {
    // It moves only while a vCPU or a device asks it to, and those are paused first.
    fn pause(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn resume(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn reset(&self) -> Result<(), ComponentError> {
        // Only a machine's past can stand still: that of a guest that starts anew is over.
        self.vm.restore(&self.initial, Clocks::GoOn).map_err(ComponentError::new)
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BoardState {
    vm: Blob,
}

impl Schema for BoardState {
    const KIND: &'static str = "board";
    const VERSION: u32 = 1;
}

impl Persist for Board {
    type State = BoardState;
    fn save(&self) -> Result<BoardState, SaveError> {
        self.vm.save().map(|vm| BoardState { vm }).map_err(|e| SaveError::Component(e.to_string()))
    }
    fn restore(&self, state: BoardState) -> Result<(), RestoreError> {
        let invalid = |e: Error| RestoreError::Invalid { kind: BoardState::KIND, cause: e.to_string() };
        self.vm.restore(&state.vm, self.clocks).map_err(invalid)
    }
}
