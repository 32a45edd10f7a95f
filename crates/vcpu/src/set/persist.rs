use super::{VcpuSet, lock};
use crate::VcpuError;
use crate::event::Held;
use drystone_state::{Blob, Persist, RestoreError, SaveError, Schema};
use serde::{Deserialize, Serialize};

/// The saved state of a [`VcpuSet`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VcpusState {
    /// Every vCPU, in the order in which the set was given them.
    pub vcpus: Vec<SavedVcpu>,
}

/// One vCPU in [`VcpusState`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedVcpu {
    /// Its number.
    pub id: u32,
    /// What the hypervisor's back end saved.
    pub state: Blob,
    /// The event that parked it, if nobody has decided about that yet. It is reported again at the first resume.
    held: Option<Held>,
}

impl SavedVcpu {
    /// Whether an event parked it about which nobody has decided yet.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }
}

impl Schema for VcpusState {
    const KIND: &'static str = "vcpus";
    const VERSION: u32 = 1;
}

fn refused(error: impl std::fmt::Display) -> SaveError {
    SaveError::Component(error.to_string())
}

fn invalid(cause: String) -> RestoreError {
    RestoreError::Invalid { kind: VcpusState::KIND, cause }
}

impl Persist for VcpuSet {
    type State = VcpusState;

    fn save(&self) -> Result<VcpusState, SaveError> {
        const ATTEMPT: &str = "save vCPUs";
        let control = self.control(ATTEMPT).map_err(refused)?;
        if control.running {
            return Err(refused(VcpuError::NotPaused(ATTEMPT)));
        }
        if !control.booted {
            return Err(refused("vCPUs have not started yet"));
        }
        let mut vcpus = Vec::new();
        for slot in &self.slots {
            let held = lock(&slot.held).clone();
            if let Some(Held::Other(why)) = held {
                return Err(refused(format_args!("vCPU {} cannot go on: {why}", slot.id)));
            }
            let state = lock(&slot.vcpu).save();
            let state = state.map_err(|e| refused(format_args!("vCPU {}: {e}", slot.id)))?;
            vcpus.push(SavedVcpu { id: slot.id, state, held });
        }
        Ok(VcpusState { vcpus })
    }

    fn restore(&self, state: VcpusState) -> Result<(), RestoreError> {
        const ATTEMPT: &str = "restore vCPUs";
        let mut control = self.control(ATTEMPT).map_err(|e| invalid(e.to_string()))?;
        if control.running {
            return Err(invalid(VcpuError::NotPaused(ATTEMPT).to_string()));
        }
        if !state.vcpus.iter().map(|v| v.id).eq(self.ids()) {
            let saved: Vec<_> = state.vcpus.iter().take(16).map(|v| v.id).collect();
            return Err(invalid(format!(
                "it has {} vCPUs (numbers {saved:?}…), this machine has {} of its own",
                state.vcpus.len(),
                self.slots.len()
            )));
        }
        for (slot, saved) in self.slots.iter().zip(state.vcpus) {
            lock(&slot.vcpu).restore(&saved.state).map_err(|e| invalid(format!("vCPU {}: {e}", slot.id)))?;
            if saved.held.is_some() {
                slot.gate.hold();
                control.unreported = true;
            } else {
                slot.gate.release();
            }
            *lock(&slot.held) = saved.held;
        }
        control.booted = true;
        Ok(())
    }
}
