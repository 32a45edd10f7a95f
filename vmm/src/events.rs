//! What happens to a machine: typed events with a number, a time and a cause, in a history of bounded size, and in the log.

mod history;
mod kind;
#[cfg(test)]
mod tests;

pub use history::{History, MAX_RECORDS, Record};
pub use kind::{CauseKind, EventKind};

use crate::log::{Level, Log};
use drystone_bus::{Effect, SystemClock};
use drystone_lifecycle::{Cause, Event, State};
use std::sync::Arc;

/// Where a machine's events are told: its history and its log. Clones tell the same ones.
#[derive(Clone)]
pub struct Journal {
    history: History,
    log: Log,
}

impl Journal {
    /// With an empty history.
    pub fn new(log: Log) -> Self {
        Self { history: History::new(), log }
    }

    /// The log for what devices have to say.
    pub fn devices(&self) -> drystone_observe::Log {
        drystone_observe::Log::new("", Arc::new(self.log.clone()), Arc::new(SystemClock::new()))
    }

    /// The events so far, and those to come.
    pub fn history(&self) -> History {
        self.history.clone()
    }

    /// Tells of something that is neither a change of state nor the guest's doing.
    pub fn note(&self, event: EventKind, detail: Option<String>) {
        self.tell(Level::Info, event, None, detail);
    }

    /// Tells of what the orchestrator did.
    pub fn lifecycle(&self, event: &Event) {
        match event {
            Event::State { from, to, cause } => {
                let kind = match (from, to) {
                    (State::Built, State::Running) => EventKind::Started,
                    (State::Built, State::Paused) => EventKind::Restored,
                    (_, State::Running) => EventKind::Resumed,
                    (_, State::Paused) => EventKind::Paused,
                    _ => EventKind::Stopped,
                };
                self.caused(kind, cause);
            }
            Event::Reset { cause } => self.caused(EventKind::Reset, cause),
            Event::Effect(effect) => {
                let kind = match effect {
                    Effect::PowerOff => EventKind::GuestPowerOff,
                    Effect::Reset => EventKind::GuestReset,
                    Effect::Panic => EventKind::GuestPanic,
                    Effect::CrashLoaded => EventKind::GuestCrashLoaded,
                    _ => return self.log.debug(format_args!("the guest asks for {effect:?}")),
                };
                self.note(kind, None);
            }
            Event::Error(what) => self.tell(Level::Error, EventKind::Error, None, Some(what.clone())),
            other => self.log.debug(format_args!("{other:?}")),
        }
    }

    fn caused(&self, event: EventKind, cause: &Cause) {
        let detail = match cause {
            Cause::Fault(what) => Some(what.clone()),
            _ => None,
        };
        self.tell(Level::Info, event, Some(cause.into()), detail);
    }

    fn tell(&self, level: Level, event: EventKind, cause: Option<CauseKind>, detail: Option<String>) {
        let record = self.history.push(event, cause, detail);
        self.log.write(level, format_args!("event {record}"));
    }
}
