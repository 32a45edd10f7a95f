use crate::control::{Limits, Server, Socket, Verbs};
use crate::log::Log;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// A machine's control socket. Most machines are asked nothing for most of their life, and many for all of it: the thread
/// that serves it begins with the first who connects. Dropping it ends both.
pub(super) struct Door {
    state: State,
    verbs: Arc<dyn Verbs>,
    log: Log,
}

enum State {
    /// Nobody has connected yet.
    Quiet(Socket),
    /// Held until the end, when it lets its last answers out.
    Open { _server: Server },
    /// It could not be served.
    Shut,
}

impl Door {
    pub fn new(socket: Socket, verbs: Arc<dyn Verbs>, log: Log) -> Self {
        Self { state: State::Quiet(socket), verbs, log }
    }

    /// What becomes readable when it is to be [opened](Self::open); `None` once it was.
    pub fn knocker(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Quiet(socket) => Some(socket.as_fd()),
            _ => None,
        }
    }

    /// Serves who waits, and who comes later. A machine whose host has no thread left for it goes on without.
    pub fn open(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Shut) {
            State::Quiet(socket) => {
                match socket.serve(self.verbs.clone(), Limits::default(), self.log.clone()) {
                    Ok(server) => State::Open { _server: server },
                    Err(e) => {
                        self.log.error(e);
                        State::Shut
                    }
                }
            }
            other => other,
        };
    }
}
