use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where a device gets the time from. Injected, so that tests and fuzzers run on a clock of their own.
pub trait Clock: Send + Sync {
    /// Wall time since 1970-01-01 00:00:00 UTC; zero on a host whose clock is set before that.
    fn wall(&self) -> Duration;
    /// Time that only moves forward, from an arbitrary start.
    fn monotonic(&self) -> Duration;
}

/// The host's clocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock(Instant);

impl SystemClock {
    /// A clock whose monotonic time starts now.
    pub fn new() -> Self {
        Self(Instant::now())
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A clock that stands still until it is moved.
#[derive(Debug, Default)]
pub struct ManualClock(Mutex<(Duration, Duration)>);

impl ManualClock {
    /// A clock that shows `wall` since the Unix epoch, and a monotonic time of zero.
    pub fn new(wall: Duration) -> Self {
        Self(Mutex::new((wall, Duration::ZERO)))
    }
    /// Moves both times forward; they saturate at the end of [`Duration`].
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock().unwrap_or_else(|e| e.into_inner());
        *now = (now.0.saturating_add(by), now.1.saturating_add(by));
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> Duration {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).0
    }
    fn monotonic(&self) -> Duration {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).1
    }
}
