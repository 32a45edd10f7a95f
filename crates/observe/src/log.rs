use drystone_bus::Clock;
use std::fmt::{self, Display};
use std::sync::Arc;

/// How grave a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The machine cannot go on.
    Error,
    /// Something is wrong, and the machine goes on.
    Warn,
    /// What happens to the machine.
    Info,
    /// What happens inside.
    Debug,
}

/// Where a VMM's lines go: its file, `tracing`, `log`, standard error. Every closure of the right form is one.
pub trait Sink: Send + Sync {
    /// Takes one line. Called from any thread, also under a device's lock: it must not wait for a device, nor for long.
    /// What the line says of a guest's doings may hold control characters.
    fn write(&self, level: Level, line: &dyn Display);
}

impl<F: Fn(Level, &dyn Display) + Send + Sync> Sink for F {
    fn write(&self, level: Level, line: &dyn Display) {
        self(level, line);
    }
}

/// A component's way to its VMM's log: each line begins with the component's name. Cheap to clone.
///
/// For lines whose number the guest does not decide; all others go through a [`Throttle`](crate::Throttle).
#[derive(Clone)]
pub struct Log {
    sink: Arc<dyn Sink>,
    clock: Arc<dyn Clock>,
    name: Arc<str>,
}

impl Log {
    /// A log into `sink`. The clock is for throttles.
    pub fn new(name: &str, sink: Arc<dyn Sink>, clock: Arc<dyn Clock>) -> Self {
        Self { sink, clock, name: name.into() }
    }

    /// A log that drops everything.
    pub fn none() -> Self {
        Self::new("", Arc::new(|_: Level, _: &dyn Display| ()), Arc::new(drystone_bus::SystemClock::new()))
    }

    /// The same log for another component.
    pub fn named(&self, name: &str) -> Self {
        Self { name: name.into(), ..self.clone() }
    }

    /// Writes one line.
    pub fn write(&self, level: Level, message: impl Display) {
        self.sink.write(level, &Line { name: &self.name, message: &message });
    }

    /// Writes at [`Level::Error`].
    pub fn error(&self, message: impl Display) {
        self.write(Level::Error, message);
    }
    /// Writes at [`Level::Warn`].
    pub fn warn(&self, message: impl Display) {
        self.write(Level::Warn, message);
    }
    /// Writes at [`Level::Info`].
    pub fn info(&self, message: impl Display) {
        self.write(Level::Info, message);
    }
    /// Writes at [`Level::Debug`].
    pub fn debug(&self, message: impl Display) {
        self.write(Level::Debug, message);
    }

    pub(crate) fn now(&self) -> std::time::Duration {
        self.clock.monotonic()
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("name", &self.name).finish_non_exhaustive()
    }
}

struct Line<'a> {
    name: &'a str,
    message: &'a dyn Display,
}

impl Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() { self.message.fmt(f) } else { write!(f, "{}: {}", self.name, self.message) }
    }
}
