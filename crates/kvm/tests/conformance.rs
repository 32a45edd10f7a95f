//! The conformance suites on this host's KVM, be it hardware or software that interprets kernel-mode code. Where there is
//! none they say so and pass, unless `DRYSTONE_REQUIRE_KVM=1`.

use drystone_kvm::Kvm;
use drystone_testkit::{Backend, conformance_tests};
use std::sync::Arc;

fn kvm() -> Option<Backend> {
    match Kvm::open() {
        Ok(kvm) => Some(Backend::Real(Arc::new(kvm))),
        Err(e) if std::env::var_os("DRYSTONE_REQUIRE_KVM").is_some_and(|v| v == "1") => panic!("{e}"),
        Err(e) => {
            eprintln!("SKIPPED, no KVM: {e}");
            None
        }
    }
}

conformance_tests!(kvm);
