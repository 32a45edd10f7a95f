//! How fast a device may go: bytes and operations a second, with a burst, on an injected clock.
//!
//! A [`Limiter`] is asked once for each request. It lets the request pass, or hands out a [`Ticket`] that says when to
//! ask again. Tickets of one limiter are served in the order in which they were given, so no request starves behind smaller
//! ones, however many queues share it; limiters of one [`LimitGroup`] get equal shares. All arithmetic is in whole billionths of a token and saturates:
//! nothing drifts, and no configuration overflows.
#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod bucket;
mod config;
mod gate;
mod group;
mod limiter;
mod state;

pub use config::{LimitConfig, Rate};
pub use gate::{Gate, Passage};
pub use group::LimitGroup;
pub use limiter::{Cost, Limiter, Ticket};
pub use state::LimiterState;
