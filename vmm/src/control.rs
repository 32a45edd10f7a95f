//! The control socket: HTTP/1.1 over a unix socket, for the user who runs the machine.
//!
//! | request | what |
//! |---|---|
//! | `GET /v1` | the routes |
//! | `GET /v1/vm` | [`Info`] |
//! | `GET /v1/vm/metrics` | counters and state of its devices, by name |
//! | `GET /v1/vm/events` | what has happened; with `?follow=true` also what happens from now on |
//! | `PUT /v1/vm/pause`, `resume`, `power`, `ctrl-alt-del`, `nmi`, `reset`, `stop`, `disk-add`, `disk-remove`, `disk-resize`, `disk-limit`, `net-add`, `net-remove`, `net-link`, `net-limit`, `rng-limit` | an [`Action`]; the answer is the [`Info`] afterwards |
//!
//! Bodies are JSON. An error is `{"error": "…"}` with the status that fits; a request that is no HTTP gets a status
//! alone. [`Limits`] bound what a peer can take up.

mod action;
mod events;
pub mod fuzz;
mod info;
mod limits;
mod routes;
mod serve;
mod server;
#[cfg(test)]
mod tests;
mod verbs;

pub use action::{Action, DEFAULT_REMOVAL_TIME, DEFAULT_SHUTDOWN_TIME, Limited, MAX_SHUTDOWN_TIME};
pub use info::{Info, SnapshotProgress, VmState};
pub use limits::Limits;
pub use server::{ServeError, Server, Socket};
pub use verbs::{Verb, VerbError, Verbs};
