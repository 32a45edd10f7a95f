//! `GET /v1/vm/events`: what has happened, as one JSON object, or as it happens, one line each.

use crate::events::{History, Record};
use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame};
use serde::Serialize;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, watch};

/// What can be asked for after the `?`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Query {
    /// The number of the last event that is known already.
    pub since: u64,
    /// Whether to go on with those that happen from now on.
    pub follow: bool,
}

impl Query {
    /// Reads `since=N&follow=true`, in any order.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut this = Self::default();
        for part in query.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let bad = || format!("there is no {name} of that kind: use since=N, follow=true");
            match name {
                "since" => this.since = value.parse().map_err(|_| bad())?,
                "follow" => this.follow = value.parse().map_err(|_| bad())?,
                _ => return Err("the query may say since=N and follow=true".into()),
            }
        }
        Ok(this)
    }
}

/// The answer without `follow`.
#[derive(Serialize)]
pub(super) struct Events {
    pub events: Vec<Record>,
}

type Next = (Cursor, Option<Bytes>);

/// The body of an answer that goes on until the machine ends, one JSON object a line. An empty line says that nothing has
/// happened for a while; by it a peer that has gone is noticed.
pub(super) struct Follow {
    next: Pin<Box<dyn Future<Output = Next>>>,
    ended: bool,
}

struct Cursor {
    history: History,
    since: u64,
    newest: watch::Receiver<u64>,
    ending: watch::Receiver<bool>,
    pulse: Duration,
    /// A place among those who follow.
    _place: OwnedSemaphorePermit,
}

impl Follow {
    pub fn new(
        history: History,
        since: u64,
        ending: watch::Receiver<bool>,
        pulse: Duration,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let newest = history.newest();
        let cursor = Cursor { history, since, newest, ending, pulse, _place: place };
        Self { next: Box::pin(cursor.next()), ended: false }
    }
}

impl Cursor {
    /// The lines of what has happened since, an empty one, or none any more.
    async fn next(mut self) -> Next {
        loop {
            // Both are looked at before the events, so that none that came before is missed.
            let ending = *self.ending.borrow_and_update();
            self.newest.borrow_and_update();
            let records = self.history.since(self.since);
            if let Some(last) = records.last() {
                self.since = last.seq;
                return (self, Some(lines(&records)));
            }
            // Without its other end there is no server any more.
            if ending || self.ending.has_changed().is_err() {
                return (self, None);
            }
            tokio::select! {
                _ = self.newest.changed() => {}
                _ = self.ending.changed() => {}
                () = tokio::time::sleep(self.pulse) => return (self, Some(Bytes::from_static(b"\n"))),
            }
        }
    }
}

fn lines(records: &[Record]) -> Bytes {
    let mut lines = Vec::new();
    for record in records {
        // Numbers and words: there is nothing in it that JSON cannot hold.
        lines.extend(serde_json::to_vec(record).unwrap_or_default());
        lines.push(b'\n');
    }
    lines.into()
}

impl Body for Follow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let (cursor, bytes) = ready!(self.next.as_mut().poll(cx));
        match bytes {
            Some(bytes) => {
                self.next = Box::pin(cursor.next());
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            None => {
                self.ended = true;
                Poll::Ready(None)
            }
        }
    }
}

/// The body of any answer.
pub(super) type AnswerBody = http_body_util::Either<Full<Bytes>, Follow>;
