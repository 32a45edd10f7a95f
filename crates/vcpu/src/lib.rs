//! Virtual CPUs above a hypervisor: what they are ([`cpuid`], [`msr`]), where they begin ([`boot`]), and the threads that
//! run them ([`VcpuSet`]).
#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod barrier;
pub mod boot;
mod counters;
pub mod cpuid;
mod error;
mod event;
mod gate;
mod io;
pub mod msr;
mod set;

/// What `gate` is built on; a model of it and of `barrier` puts loom's primitives here.
mod sync {
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
}

pub use counters::{ExitCounts, ExitLatency, Histogram};
pub use error::VcpuError;
pub use event::{EventSink, VcpuEvent, VcpuEventKind};
pub use io::{BusIo, MsrHandler};
pub use set::{BootState, SavedVcpu, ThreadSetup, VcpuOptions, VcpuSet, VcpusState};
