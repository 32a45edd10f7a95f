use crate::machine::MachineError;
use drystone_bus::Interrupt;
use drystone_hypervisor::{Msi, MsiRoute, Vm};
use drystone_pci::{Message, Vector, VectorError};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// A vector of MSI-X as an event with a message of its own in the hypervisor: a trigger is a write to the event, and the
/// guest is interrupted without an exit to here.
pub(super) struct EventVector {
    event: EventFd,
    route: Box<dyn MsiRoute>,
}

impl EventVector {
    pub(super) fn new(vm: &dyn Vm) -> Result<Self, MachineError> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(MachineError::DeviceEvent)?;
        let route = vm.create_msi_route(&event)?;
        Ok(Self { event, route })
    }
}

impl Interrupt for EventVector {
    fn trigger(&self) {
        self.event.trigger();
    }
}

impl Vector for EventVector {
    fn set(&self, message: Option<Message>) -> Result<(), VectorError> {
        let message = message.map(|Message { address, data }| Msi { address, data });
        Ok(self.route.set(message)?)
    }

    fn is_pending(&self) -> bool {
        self.route.is_pending()
    }

    /// Of an event that the hypervisor listens to there is nothing to forget: it has taken it.
    fn clear_pending(&self) {
        if self.is_pending() {
            let _ = self.event.read();
        }
    }
}
