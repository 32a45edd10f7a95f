//! The request path without a socket, for fuzzing and for replaying what fuzzing found.

use super::routes::Routes;
use super::{Action, Info, Limits, VerbError, Verbs, VmState, serve};
use crate::events::{CauseKind, EventKind, History};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::LocalSet;

/// A machine that agrees to everything but a resume, and to which some things have happened.
struct Agreeable(History);

impl Verbs for Agreeable {
    fn info(&self) -> Info {
        Info {
            id: "fuzz".into(),
            pid: 1,
            state: VmState::Running,
            cpus: 1,
            memory_bytes: 4096,
            uptime_ms: 0,
            version: String::new(),
            kernel: "vmlinux".into(),
            boot_protocol: "linux".into(),
            resets: 0,
            end: None,
            exits: [("io".to_owned(), 1)].into(),
            exit_latency: [("io".to_owned(), [(1024, 1)].into())].into(),
            snapshot: None,
            msrs: Vec::new(),
        }
    }
    fn history(&self) -> History {
        self.0.clone()
    }
    fn act(&self, action: Action) -> Result<Info, VerbError> {
        match action {
            Action::Resume => Err(VerbError::Illegal("it runs".into())),
            _ => Ok(self.info()),
        }
    }
}

/// Sends `data` as a peer that then closes its side, through the same connection, limits and routes as the socket's,
/// and returns all that comes back.
///
/// # Panics
/// When what comes back is neither nothing nor an HTTP response, or when the connection does not end: what a fuzzer
/// looks for.
pub fn request(data: &[u8]) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build();
    let Ok(runtime) = runtime else { return Vec::new() };
    let limits = Limits { body: 4 << 10, ..Limits::default() };
    let answer = LocalSet::new().block_on(&runtime, async {
        let (mut peer, stream) = tokio::io::duplex(64 << 10);
        let history = History::new();
        history.push(EventKind::Reset, Some(CauseKind::Operator), None);
        history.push(EventKind::Error, None, Some("disk: gone".into()));
        // Whoever follows the events has seen them all, while the connection itself goes on.
        let (_ended, has_ended) = tokio::sync::watch::channel(true);
        let (_ending, is_ending) = tokio::sync::watch::channel(false);
        let routes = Routes::new(Arc::new(Agreeable(history)), limits, has_ended);
        let served = tokio::task::spawn_local(async move {
            serve::connection(stream, routes, &limits, is_ending).await;
        });
        // The peer reads while it writes: the two directions hold only so much.
        let (mut from, mut to) = tokio::io::split(&mut peer);
        let send = async {
            // The other side may hang up before it has read all.
            let _ = to.write_all(data).await;
            let _ = to.shutdown().await;
        };
        let mut answer = Vec::new();
        let receive = from.read_to_end(&mut answer);
        let all = async { tokio::join!(send, receive, served) };
        let done = tokio::time::timeout(Duration::from_secs(60), all).await;
        assert!(done.is_ok_and(|(_, _, served)| served.is_ok()), "the connection does not end");
        answer
    });
    runtime.shutdown_background();
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "not an HTTP response");
    answer
}
