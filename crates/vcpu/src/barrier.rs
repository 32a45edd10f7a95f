//! How all vCPU threads of a set are started, stopped and ended together, over each one's [`Gate`].
//!
//! Like `gate.rs`, `tests/gate_model.rs` compiles this very file over loom's primitives.

use super::gate::Gate;

/// A vCPU as the barrier sees it.
pub trait Gated {
    /// What its thread looks at.
    fn gate(&self) -> &Gate;
    /// Gets its thread out of the guest, to look at the gate: latched, as [`Kicker`](drystone_hypervisor::Kicker) says.
    fn kick(&self);
}

/// Gets `vcpus` out of the guest; returns when all are. All are asked before one is waited for, so that they leave it at
/// the same time.
pub fn pause<'a, G: Gated + 'a>(vcpus: impl Iterator<Item = &'a G> + Clone) {
    for vcpu in vcpus.clone() {
        vcpu.gate().ask_to_park();
        vcpu.kick();
    }
    for vcpu in vcpus {
        vcpu.gate().wait_parked();
    }
}

/// Lets `vcpus` enter the guest, unless they are held or to end.
pub fn resume<'a, G: Gated + 'a>(vcpus: impl Iterator<Item = &'a G>) {
    for vcpu in vcpus {
        vcpu.gate().run();
    }
}

/// Gets `vcpus` out of the guest for good, and does not wait for them.
pub fn quit<'a, G: Gated + 'a>(vcpus: impl Iterator<Item = &'a G>) {
    for vcpu in vcpus {
        vcpu.gate().ask_to_quit();
        vcpu.kick();
    }
}
