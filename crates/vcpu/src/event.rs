use drystone_bus::Effect;
use drystone_hypervisor::RunError;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Something on a vCPU that somebody has to decide about. Its vCPU is parked and does not run on by itself.
#[derive(Debug)]
#[non_exhaustive]
pub struct VcpuEvent {
    /// The vCPU's number.
    pub id: u32,
    /// How often the set had been reset when it happened: an event from before a reset is of no interest after it.
    /// See [`VcpuSet::is_current`](crate::VcpuSet::is_current).
    pub epoch: u64,
    /// What happened.
    pub kind: VcpuEventKind,
}

/// What happened on a vCPU.
#[derive(Debug)]
#[non_exhaustive]
pub enum VcpuEventKind {
    /// A write of the guest asked something of the machine. The instruction is complete.
    Effect(Effect),
    /// The guest cannot go on.
    Fault(RunError),
    /// A triple fault.
    TripleFault,
    /// HLT on a machine without an interrupt controller: nothing will wake it.
    Halted,
}

/// Takes a vCPU's events, on that vCPU's thread. It hands them over (to a channel, an event loop) and returns: until it
/// does, [`VcpuSet::pause`](drystone_state::Component::pause) waits for this vCPU.
pub type EventSink = Arc<dyn Fn(VcpuEvent) + Send + Sync>;

/// Why a vCPU is held, in a form that can be saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Held {
    PowerOff,
    Reset,
    Panic,
    CrashLoaded,
    TripleFault,
    Halted,
    /// Cannot be saved: what the event said is not data.
    #[serde(skip)]
    Other(String),
}

impl Held {
    pub(crate) fn from_kind(kind: &VcpuEventKind) -> Self {
        match kind {
            VcpuEventKind::Effect(Effect::PowerOff) => Self::PowerOff,
            VcpuEventKind::Effect(Effect::Reset) => Self::Reset,
            VcpuEventKind::Effect(Effect::Panic) => Self::Panic,
            VcpuEventKind::Effect(Effect::CrashLoaded) => Self::CrashLoaded,
            VcpuEventKind::Effect(other) => Self::Other(format!("{other:?}")),
            VcpuEventKind::TripleFault => Self::TripleFault,
            VcpuEventKind::Halted => Self::Halted,
            VcpuEventKind::Fault(error) => Self::Other(error.to_string()),
        }
    }

    /// The event again, for a machine that was saved before anybody decided about it.
    pub(crate) fn to_kind(&self) -> Option<VcpuEventKind> {
        match self {
            Self::PowerOff => Some(VcpuEventKind::Effect(Effect::PowerOff)),
            Self::Reset => Some(VcpuEventKind::Effect(Effect::Reset)),
            Self::Panic => Some(VcpuEventKind::Effect(Effect::Panic)),
            Self::CrashLoaded => Some(VcpuEventKind::Effect(Effect::CrashLoaded)),
            Self::TripleFault => Some(VcpuEventKind::TripleFault),
            Self::Halted => Some(VcpuEventKind::Halted),
            Self::Other(_) => None,
        }
    }
}
