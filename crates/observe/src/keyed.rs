use crate::throttle::Window;
use crate::{Level, Log, Quota};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A [`Throttle`](crate::Throttle) for each of many keys that the guest may choose, for example registers or addresses: one that is
/// noisy does not silence the others.
///
/// At most `keys` are known at once. One whose period is over makes room; when none is, further keys share one
/// quota, so memory and log are bounded whatever the guest chooses.
#[derive(Debug)]
pub struct KeyedThrottle<K: Ord + Display> {
    log: Log,
    quota: Quota,
    keys: usize,
    windows: Mutex<Windows<K>>,
}

#[derive(Debug)]
struct Windows<K> {
    known: BTreeMap<K, Window>,
    others: Window,
}

impl<K: Ord + Display> KeyedThrottle<K> {
    /// A throttle before `log` that knows at most `keys` keys.
    pub fn new(log: Log, quota: Quota, keys: usize) -> Self {
        let windows = Windows { known: BTreeMap::new(), others: Window::default() };
        Self { log, quota, keys, windows: Mutex::new(windows) }
    }

    /// Writes one line `KEY: message`, or counts it.
    pub fn write(&self, key: K, level: Level, message: impl Display) {
        let now = self.log.now();
        let mut windows = self.windows();
        if windows.known.len() >= self.keys && !windows.known.contains_key(&key) {
            self.forget_ended(&mut windows, now);
        }
        let (report, pass, name);
        if windows.known.len() < self.keys || windows.known.contains_key(&key) {
            name = key.to_string();
            (report, pass) = windows.known.entry(key).or_default().admit(now, &self.quota);
        } else {
            name = "others".into();
            (report, pass) = windows.others.admit(now, &self.quota);
        }
        drop(windows);
        self.report(&name, report);
        if pass {
            self.log.write(level, format_args!("{name}: {message}"));
        }
    }

    /// Writes at [`Level::Warn`].
    pub fn warn(&self, key: K, message: impl Display) {
        self.write(key, Level::Warn, message);
    }

    /// Says now, for each key, how many lines were suppressed, if any were.
    pub fn flush(&self) {
        let mut windows = self.windows();
        for (key, window) in &mut windows.known {
            self.report(key, window.take_suppressed());
        }
        self.report(&"others", windows.others.take_suppressed());
    }

    fn forget_ended(&self, windows: &mut Windows<K>, now: std::time::Duration) {
        windows.known.retain(|key, window| {
            let ended = window.ended(now, &self.quota);
            if ended {
                self.report(key, window.take_suppressed());
            }
            !ended
        });
    }

    fn report(&self, key: &dyn Display, suppressed: u64) {
        if suppressed > 0 {
            self.log.warn(format_args!("{key}: … {suppressed} more suppressed"));
        }
    }

    fn windows(&self) -> MutexGuard<'_, Windows<K>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord + Display> Drop for KeyedThrottle<K> {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
impl<K: Ord + Display> KeyedThrottle<K> {
    pub(crate) fn windows_known(&self) -> usize {
        self.windows().known.len()
    }
}
