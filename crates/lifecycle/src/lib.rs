//! The life of a virtual machine: [`State`] and what leads from one to the next ([`TRANSITIONS`]), and the
//! [`Orchestrator`] that takes all of a machine's components there in the right order.
//!
//! It knows no vCPU, no device and no control socket: only the [`Component`](drystone_state::Component) contract, and the
//! [`Effect`](drystone_bus::Effect)s by which a guest asks for its own reset or end.
#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod error;
mod event;
mod orchestrator;
mod policy;
mod state;

pub use error::Error;
pub use event::{Cause, Event, EventSink, StateReader, Status};
pub use orchestrator::{Orchestrator, SavedPart, Stage, Verdict};
pub use policy::{OnPanic, OnReset, OnTripleFault, Policy};
pub use state::{IllegalTransition, State, TRANSITIONS, Transition, Verb};
