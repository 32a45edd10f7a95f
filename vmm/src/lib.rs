#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod cli;
pub mod client;
pub mod config;
pub mod console;
pub mod control;
pub mod events;
pub mod log;
pub mod machine;
pub mod monitor;
pub mod registry;
pub mod run;
pub mod snapshot;
