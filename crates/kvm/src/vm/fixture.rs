//! A VM for tests of what is not public.

use super::{Shared, create};
use crate::Kvm;
use drystone_hypervisor::VmConfig;
use std::sync::Arc;

/// What is behind a VM of this host's KVM. Where there is none it says so and returns nothing, unless `DRYSTONE_REQUIRE_KVM=1`.
pub(crate) fn vm(config: &VmConfig) -> Option<Arc<Shared>> {
    if let Err(e) = Kvm::open() {
        assert!(std::env::var_os("DRYSTONE_REQUIRE_KVM").is_none_or(|v| v != "1"), "{e}");
        eprintln!("SKIPPED, no KVM: {e}");
        return None;
    }
    let kvm = kvm_ioctls::Kvm::new().unwrap();
    Some(Arc::new(create::create(&kvm, config).unwrap()))
}
