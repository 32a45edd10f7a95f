use crate::Bus;

/// Knows where ranges on a [`Bus`] belong, and puts them there after an [`Effect::Relocate`](crate::Effect::Relocate).
///
/// The guest moves ranges while it runs (PCI base address registers), from any vCPU, also from several at once. So an
/// effect names no range: whoever implements this compares what the guest has asked for with what is on the bus, and the
/// order in which two effects are applied does not matter.
pub trait Relocate: Send + Sync {
    /// Makes the ranges on `bus` those that the guest has last asked for. Called with no device lock held, from any
    /// thread. Nothing may have changed since the last call.
    fn relocate(&self, bus: &Bus);
}
