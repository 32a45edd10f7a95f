//! A model of how vCPU threads are started, parked and ended: loom tries every interleaving of the very source files that
//! the library compiles, here over loom's mutex and condition variable, up to a number of preemptions.
//!
//! A lost request shows as a deadlock, and a guest that runs while it is paused as a concurrent access to its `ram`.
#![allow(missing_docs, dead_code, clippy::unwrap_used)]

#[path = "../../src/barrier.rs"]
mod barrier;
#[path = "../../src/gate.rs"]
mod gate;
mod one;
mod several;
mod vcpu;

/// What the two files are built on.
mod sync {
    pub use loom::sync::{Condvar, Mutex, MutexGuard};
}

/// Tries every interleaving of `model` with at most `preemptions` switches away from a thread that could go on.
fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}
