//! The conformance suites on the fake hypervisor.

use drystone_testkit::{Backend, conformance_tests};

fn fake() -> Option<Backend> {
    Some(Backend::Fake)
}

conformance_tests!(fake);
