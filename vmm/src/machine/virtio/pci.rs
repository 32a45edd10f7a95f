use super::vector::EventVector;
use super::wires::Wires;
use super::{Memory, Parts};
use crate::machine::MachineError;
use drystone_observe::Throttle;
use drystone_pci::Vector;
use drystone_runner::Doorbells;
use drystone_virtio::{Host, Pci, VirtioDevice};
use std::sync::Arc;

/// Makes a function of `device`, in no slot yet.
pub(super) fn function(
    parts: &Parts,
    device: Box<dyn VirtioDevice<Memory>>,
    doorbells: &Arc<Doorbells>,
    host: Host,
    log: Throttle,
) -> Result<Pci<Memory>, MachineError> {
    let count = Pci::<Memory>::vectors(device.describe().queue_sizes.len());
    let vector = |_| Ok(Arc::new(EventVector::new(parts.vm.as_ref())?) as Arc<dyn Vector>);
    let vectors = (0..count).map(vector).collect::<Result<_, MachineError>>()?;
    let wires = Arc::new(Wires::new(parts.vm.clone(), doorbells.clone(), log));
    Ok(Pci::new(device, parts.memory.clone(), vectors, wires, host)?)
}
