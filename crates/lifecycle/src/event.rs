use crate::State;
use drystone_bus::Effect;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// Why a machine changed its state.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// Somebody outside of the guest asked for it.
    Operator,
    /// The guest switched itself off.
    GuestPowerOff,
    /// The guest asked for a reset.
    GuestReset,
    /// The guest suffered a triple fault.
    TripleFault,
    /// The guest's kernel panicked.
    GuestPanic,
    /// It took over what was saved of another machine.
    Restored,
    /// The guest ended by itself, as it was asked to.
    Shutdown,
    /// The guest was asked to end by itself and did not in time.
    Overdue,
    /// The machine cannot go on. The text is one line that says why.
    Fault(String),
}

impl fmt::Display for Cause {
    /// Completes "the machine stopped: …".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("asked from outside"),
            Self::GuestPowerOff => f.write_str("the guest switched itself off"),
            Self::GuestReset => f.write_str("the guest asked for a reset"),
            Self::TripleFault => f.write_str("triple fault of the guest"),
            Self::GuestPanic => f.write_str("the guest's kernel panicked"),
            Self::Restored => f.write_str("restored from a saved state"),
            Self::Shutdown => f.write_str("the guest shut down, as it was asked to"),
            Self::Overdue => f.write_str("the guest was asked to shut down and did not in time"),
            Self::Fault(text) => f.write_str(text),
        }
    }
}

/// Something worth telling about a machine's life.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// It went from one state to another.
    State {
        /// Where it was.
        from: State,
        /// Where it is.
        to: State,
        /// Why.
        cause: Cause,
    },
    /// It was reset in place, and is in the state in which it was before.
    Reset {
        /// Why.
        cause: Cause,
    },
    /// The guest did something that is beyond a device; what comes of it follows.
    Effect(Effect),
    /// A part failed; the line says which, in what, and why.
    Error(String),
}

/// Takes events, on the orchestrator's thread, between two steps. It must not call the orchestrator.
pub type EventSink = Arc<dyn Fn(Event) + Send + Sync>;

/// A machine's state as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Where it is.
    pub state: State,
    /// Why it stopped; `None` until then.
    pub end: Option<Cause>,
    /// How often it was reset.
    pub resets: u64,
}

/// Reads a machine's [`Status`] from any thread, also while the orchestrator is busy. Cheap to clone.
#[derive(Clone)]
pub struct StateReader(Arc<Shared>);

struct Shared {
    status: Mutex<Status>,
    changed: Condvar,
}

impl StateReader {
    pub(crate) fn new() -> Self {
        let status = Status { state: State::Built, end: None, resets: 0 };
        Self(Arc::new(Shared { status: Mutex::new(status), changed: Condvar::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        self.0.status.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Where the machine is.
    pub fn state(&self) -> State {
        self.lock().state
    }

    /// All that is known.
    pub fn status(&self) -> Status {
        self.lock().clone()
    }

    /// Blocks until the machine has stopped, and says why it did.
    pub fn wait_stopped(&self) -> Cause {
        let mut status = self.lock();
        loop {
            match &status.end {
                Some(cause) => return cause.clone(),
                None => status = self.0.changed.wait(status).unwrap_or_else(|e| e.into_inner()),
            }
        }
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.lock());
        self.0.changed.notify_all();
    }
}
