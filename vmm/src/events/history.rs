use super::{CauseKind, EventKind};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// A history keeps the last so many events: what a guest does over and over pushes out what was before, and no more.
pub const MAX_RECORDS: usize = 256;
/// A longer detail is cut, in bytes.
const MAX_DETAIL: usize = 1024;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its number: 1 for a machine's first event, and one more for each. A gap says that older ones were pushed out.
    pub seq: u64,
    /// When: milliseconds since 1970-01-01, UTC, by the host's clock.
    pub unix_ms: u64,
    /// What happened.
    pub event: EventKind,
    /// Why, where that is not said by what happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<CauseKind>,
    /// More about it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl fmt::Display for Record {
    /// One line without the time: `7 reset guest_reset`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.seq, self.event)?;
        self.cause.iter().try_for_each(|cause| write!(f, " {cause}"))?;
        self.detail.iter().try_for_each(|detail| write!(f, ": {detail}"))
    }
}

/// The last events of a machine. Clones are of the same machine; any thread may look.
#[derive(Clone)]
pub struct History(Arc<Inner>);

struct Inner {
    records: Mutex<VecDeque<Record>>,
    newest: watch::Sender<u64>,
}

impl Default for History {
    fn default() -> Self {
        Self::new()
    }
}

impl History {
    /// Nothing has happened.
    pub fn new() -> Self {
        Self(Arc::new(Inner { records: Mutex::default(), newest: watch::Sender::new(0) }))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Record>> {
        self.0.records.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Adds an event that happens now.
    pub fn push(&self, event: EventKind, cause: Option<CauseKind>, detail: Option<String>) -> Record {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ms = now.as_millis().try_into().unwrap_or(u64::MAX);
        let mut records = self.lock();
        let seq = records.back().map_or(1, |last| last.seq + 1);
        let record = Record { seq, unix_ms, event, cause, detail: detail.map(cut) };
        if records.len() == MAX_RECORDS {
            records.pop_front();
        }
        records.push_back(record.clone());
        // Under the lock, so that the numbers come in order.
        self.0.newest.send_replace(seq);
        record
    }

    /// The events after number `seq` that are still known, oldest first; 0 for all.
    pub fn since(&self, seq: u64) -> Vec<Record> {
        self.lock().iter().filter(|record| record.seq > seq).cloned().collect()
    }

    /// The number of the newest event, which can be waited for.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.0.newest.subscribe()
    }
}

fn cut(mut detail: String) -> String {
    let mut end = detail.len().min(MAX_DETAIL);
    while !detail.is_char_boundary(end) {
        end -= 1;
    }
    detail.truncate(end);
    detail
}
