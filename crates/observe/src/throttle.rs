use crate::{Level, Log};
use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many lines may pass in how much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// So many at the beginning of a period; further ones are counted.
    pub first: u32,
    /// The period begins with its first line.
    pub period: Duration,
}

impl Default for Quota {
    /// 10 lines a minute.
    fn default() -> Self {
        Self { first: 10, period: Duration::from_secs(60) }
    }
}

/// Stands between one place in the code and its log, so that a guest that makes it speak a million times fills no disk.
///
/// The first lines of a period pass; the rest is counted, and `… 1234 more suppressed` says so before the first line of
/// a later period, on [`flush`](Self::flush), and when the throttle is dropped. A line that does not pass is not formatted.
#[derive(Debug)]
pub struct Throttle {
    log: Log,
    quota: Quota,
    window: Mutex<Window>,
}

/// What has happened in the current period.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Window {
    start: Option<Duration>,
    passed: u32,
    suppressed: u64,
}

impl Window {
    /// A line at `now`: how many were suppressed in a period that has ended, and whether this one passes.
    pub(crate) fn admit(&mut self, now: Duration, quota: &Quota) -> (u64, bool) {
        let mut report = 0;
        if self.ended(now, quota) {
            report = self.take_suppressed();
            *self = Self { start: Some(now), ..Self::default() };
        }
        let pass = self.passed < quota.first;
        if pass {
            self.passed += 1;
        } else {
            self.suppressed = self.suppressed.saturating_add(1);
        }
        (report, pass)
    }

    pub(crate) fn ended(&self, now: Duration, quota: &Quota) -> bool {
        self.start.is_none_or(|start| now.saturating_sub(start) >= quota.period)
    }

    pub(crate) fn take_suppressed(&mut self) -> u64 {
        std::mem::take(&mut self.suppressed)
    }
}

impl Throttle {
    /// A throttle before `log`.
    pub fn new(log: Log, quota: Quota) -> Self {
        Self { log, quota, window: Mutex::default() }
    }

    /// Writes one line, or counts it.
    pub fn write(&self, level: Level, message: impl Display) {
        let (report, pass) = self.window().admit(self.log.now(), &self.quota);
        self.report(report);
        if pass {
            self.log.write(level, message);
        }
    }

    /// Writes at [`Level::Warn`].
    pub fn warn(&self, message: impl Display) {
        self.write(Level::Warn, message);
    }

    /// Says now how many lines were suppressed, if any were.
    pub fn flush(&self) {
        let suppressed = self.window().take_suppressed();
        self.report(suppressed);
    }

    fn report(&self, suppressed: u64) {
        if suppressed > 0 {
            self.log.warn(format_args!("… {suppressed} more suppressed"));
        }
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests;
