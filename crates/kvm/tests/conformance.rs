//! The conformance suites on this host's KVM, be it hardware or software that interprets kernel-mode code.
#![allow(clippy::panic)]

mod common;

drystone_testkit::conformance_tests!(common::kvm);
