//! A hypervisor behind traits: [`Hypervisor`] makes a [`Vm`], a [`Vm`] makes [`Vcpu`]s and maps memory.
//!
//! What others need to read or set has structs of its own here ([`Regs`], [`Sregs`], [`Cpuid`], [`Msr`]); the
//! rest of a vCPU's or a VM's state is a versioned [`Blob`](drystone_state::Blob) that belongs to the back end.
//! The traits are dyn-compatible: a virtual call is nothing beside an exit from the guest, and a machine that holds
//! `Arc<dyn Vm>` needs no type parameter.
#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod config;
mod cpuid;
mod error;
#[cfg(feature = "fake")]
pub mod fake;
mod guard;
mod msi;
mod msr;
mod regs;
mod vcpu;
mod vm;

pub use config::{Capabilities, DirtyTracking, InterruptControllers, VmConfig};
pub use cpuid::{Cpuid, CpuidEntry};
pub use error::{Error, GuestContext, RunError};
pub use guard::Guard;
pub use msi::{Msi, MsiRoute};
pub use msr::{MsrAccess, MsrAction, MsrFilter, MsrRange};
pub use regs::{DescriptorTable, Msr, Regs, Segment, Sregs};
pub use vcpu::{Exit, IoHandler, Kicker, Vcpu};
pub use vm::{Clocks, Datamatch, Hypervisor, IoAddress, MapOptions, Vm};
