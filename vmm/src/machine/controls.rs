//! What the outside can do to a machine that runs.

use super::Machine;
use crate::config::ShutdownSignal;
use crate::events::Journal;
use drystone_chipset::KeyboardError;
use drystone_hypervisor::Error;

impl Machine {
    pub(crate) fn press_power_button(&self) {
        self.devices.press_power_button();
    }

    pub(crate) fn ctrl_alt_del(&self) -> Result<(), KeyboardError> {
        self.devices.ctrl_alt_del()
    }

    /// Sends a non-maskable interrupt to the vCPU of that number, or to all.
    pub(crate) fn send_nmi(&self, vcpu: Option<u32>) -> Result<(), Error> {
        let meant = |id: &u32| vcpu.is_none_or(|one| one == *id);
        self.vcpus.ids().filter(meant).try_for_each(|id| self.board.send_nmi(id))
    }

    /// Where what happens to it is told.
    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// How a graceful stop is to tell the guest.
    pub(crate) fn shutdown_signal(&self) -> ShutdownSignal {
        self.shutdown_signal
    }
}
