//! Test support: conformance suites, tiny guests, fuzz bodies.

pub mod fuzz;
