//! The contract between a virtual machine's components and whoever runs their life cycle.
//!
//! Two things live here and nothing else: [`Component`], which says what pausing, resuming and resetting mean,
//! and [`Persist`], which says what a component's saved state is. Both take `&self`: a component is shared
//! between the threads that use it (a bus, an event loop, the orchestrator) and guards itself.
#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod component;
mod persist;

pub use component::{Component, ComponentError};
pub use persist::{Blob, NoState, Persist, PersistDyn, RestoreError, SaveError, Schema};
