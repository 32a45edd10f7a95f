use super::VirtioCore;
use super::status::{DRIVER_OK, NEEDS_RESET};
use drystone_memory::Mem;
use drystone_observe::{Observe, Visitor};

/// How far its driver has come, and how often a lane had to be stopped. Takes no lock.
impl<M: Mem> Observe for VirtioCore<M> {
    fn observe(&self, to: &mut Visitor<'_>) {
        let status = self.status();
        to.number("status", status.into());
        to.flag("driver_ok", status & DRIVER_OK != 0);
        to.flag("needs_reset", status & NEEDS_RESET != 0);
        to.count("faults", self.shared.faults.get());
    }
}
