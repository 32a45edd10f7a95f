//! KVM behind the traits of `drystone-hypervisor`.
//!
//! [`Kvm`] is the only public type: everything else is reached through [`Hypervisor`](drystone_hypervisor::Hypervisor),
//! [`Vm`](drystone_hypervisor::Vm) and [`Vcpu`](drystone_hypervisor::Vcpu). No KVM type leaves this crate.
//!
//! # Signals
//! A vCPU is kicked out of the guest with the signal `SIGRTMIN`, for which [`Kvm::open`] installs a handler that
//! does nothing. A program that embeds this crate must leave that signal alone.
#![doc = include_str!("../README.md")]

mod clock;
mod convert;
mod disassemble;
mod error;
mod kvm;
mod layout;
mod vcpu;
mod vm;

pub use kvm::Kvm;
