//! The KVM back end of drystone-hypervisor.
