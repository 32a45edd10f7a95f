use drystone_hypervisor::{Guard, IoAddress, Vm};
use drystone_observe::Throttle;
use drystone_runner::Doorbells;
use drystone_virtio::Wiring;
use std::sync::{Arc, Mutex, PoisonError};

/// Has the hypervisor turn a driver's notifications into events where the guest has put the doorbells, so that they cost
/// it no exit to here.
pub(super) struct Wires {
    vm: Arc<dyn Vm>,
    doorbells: Arc<Doorbells>,
    log: Throttle,
    registered: Mutex<Vec<Guard>>,
}

impl Wires {
    pub(super) fn new(vm: Arc<dyn Vm>, doorbells: Arc<Doorbells>, log: Throttle) -> Self {
        Self { vm, doorbells, log, registered: Mutex::default() }
    }
}

impl Wiring for Wires {
    fn doorbells(&self, at: &[(u16, u64)]) {
        let mut registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        registered.clear();
        for (queue, address) in at {
            let Some(event) = self.doorbells.event(*queue) else { continue };
            match self.vm.register_ioeventfd(event, IoAddress::Mmio(*address), None) {
                Ok(guard) => registered.push(guard),
                // The device then sees the writes itself.
                Err(error) => self.log.warn(error),
            }
        }
    }
}
