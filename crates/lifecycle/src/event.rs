use crate::State;
use std::fmt;
use std::sync::Arc;

/// Why a machine changed its state.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The operator asked for it.
    Operator,
    /// The guest switched itself off.
    GuestPowerOff,
    /// The guest asked for a reset.
    GuestReset,
    /// A vCPU met a triple fault.
    TripleFault,
    /// Every vCPU halted for good: nothing can wake it.
    Halted,
    /// A vCPU or a part cannot go on; in its words.
    Fault(String),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("asked for"),
            Self::GuestPowerOff => f.write_str("the guest switched itself off"),
            Self::GuestReset => f.write_str("the guest asked for a reset"),
            Self::TripleFault => f.write_str("the guest met a triple fault"),
            Self::Halted => f.write_str("the guest halted and nothing can wake it"),
            Self::Fault(what) => f.write_str(what),
        }
    }
}

/// What an operator may want to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The machine is in a new state.
    State {
        /// The state it came from.
        from: State,
        /// The state it is in.
        to: State,
        /// Why.
        cause: Cause,
    },
    /// The machine was reset in place.
    Reset {
        /// Why.
        cause: Cause,
    },
    /// A part did not follow; the machine is where it was unless a `State` event says otherwise.
    Failed {
        /// What was tried, on what, and why it failed.
        what: String,
    },
}

/// Hears of events, on the thread of the orchestrator: it must not block, and must not call the orchestrator.
pub type EventSink = Arc<dyn Fn(&Event) + Send + Sync>;
