//! Opening KVM in tests.

use drystone_kvm::Kvm;
use drystone_testkit::Backend;
use std::sync::Arc;

/// This host's KVM. Where there is none it says so and returns nothing, unless `DRYSTONE_REQUIRE_KVM=1`.
pub fn kvm() -> Option<Backend> {
    match Kvm::open() {
        Ok(kvm) => Some(Backend::Real(Arc::new(kvm))),
        Err(e) if std::env::var_os("DRYSTONE_REQUIRE_KVM").is_some_and(|v| v == "1") => panic!("{e}"),
        Err(e) => {
            eprintln!("SKIPPED, no KVM: {e}");
            None
        }
    }
}
