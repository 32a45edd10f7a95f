//! The fuzzers' corpus of saved states on this host's KVM.
#![allow(clippy::panic)]

mod common;

use drystone_testkit::fuzz;

#[test]
fn saved_state_corpus() {
    let on_kvm = |data: &[u8]| {
        if let Some(backend) = common::kvm() {
            fuzz::saved_state_on(&backend, data);
        }
    };
    assert!(fuzz::replay("saved_state", on_kvm) > 0, "the corpus is empty");
}
