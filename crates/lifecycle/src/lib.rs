//! The life of a virtual machine: which states it has, what may be asked of it in each, and in which order its parts
//! follow.
//!
//! [`Orchestrator`] is the only caller of [`Component`](drystone_state::Component)'s methods. It knows no device, no
//! thread and no hypervisor: parts are registered by [`Stage`] and name.
#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod event;
mod orchestrator;
mod transition;

pub use event::{Cause, Event, EventSink};
pub use orchestrator::{
    LifecycleError, Orchestrator, Outcome, Part, Policy, ResetPolicy, Stage, StateReader,
};
pub use transition::{IllegalTransition, State, Verb, transition};
