//! What benchmarks share: other VMMs' command lines, the probe guest, measuring a process from outside, and figures.
#![doc = include_str!("../README.md")]

pub mod figures;
pub mod probe;
pub mod process;
pub mod snapshot;
pub mod stock;
pub mod vmm;
