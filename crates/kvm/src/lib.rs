//! The KVM back end of `drystone-hypervisor`, over kvm-ioctls. The only crate of the workspace that names KVM's types,
//! and it does so on the inside only.
//!
//! References to "KVM API" are to the kernel document Documentation/virt/kvm/api.rst.
#![doc = include_str!("../README.md")]

mod context;
mod convert;
mod kick;
mod memory;
mod state;
mod system;
mod vcpu;
mod vm;

pub use system::Kvm;
