use super::{Memory, Parts};
use crate::machine::{MachineError, devices};
use drystone_bus::BusDevice;
use drystone_hypervisor::{Datamatch, Guard, IoAddress, Vm};
use drystone_memory::Layout;
use drystone_runner::Doorbells;
use drystone_virtio::{Host, Mmio, MmioConfig, VirtioDevice};
use std::sync::Arc;

/// Interrupt lines for virtio-mmio devices: what a PC's own devices leave, then the I/O APIC's upper inputs, then those of a PC's
/// devices that this machine does not have (a second serial port, IDE).
const LINES: &[u32] = &[5, 6, 7, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23, 14, 15, 3];
/// The most devices there are lines for.
pub(crate) const MAX_MMIO_DEVICES: usize = LINES.len();

/// A device behind registers, and its interrupt and doorbell wires.
pub(super) struct OnMmio {
    pub(super) device: Arc<Mmio<Memory>>,
    _wires: Vec<Guard>,
}

/// Puts the machine's `n`th such device on the bus.
pub(super) fn add(
    parts: &Parts,
    n: usize,
    device: Box<dyn VirtioDevice<Memory>>,
    doorbells: &Doorbells,
    host: Host,
) -> Result<OnMmio, MachineError> {
    let gsi = *LINES.get(n).ok_or(MachineError::TooManyDevices { most: MAX_MMIO_DEVICES })?;
    let (base, index) = place(n);
    let (event, wire) = devices::wire(parts.vm.as_ref(), gsi)?;
    let config = MmioConfig { base, gsi, index, shared_memory: Vec::new() };
    let device = Arc::new(Mmio::new(config, device, parts.memory.clone(), Arc::new(event), host)?);
    parts.bus.mmio.insert(base.into(), Mmio::<Memory>::LEN, device.clone() as Arc<dyn BusDevice>)?;
    let mut wires = vec![wire];
    ring(&device, doorbells, parts.vm.as_ref(), &mut wires)?;
    Ok(OnMmio { device, _wires: wires })
}

/// Where the `n`th device's registers are, and its number.
fn place(n: usize) -> (u32, u16) {
    let base = Layout::PLATFORM.start + n as u64 * Mmio::<Memory>::LEN;
    (u32::try_from(base).unwrap_or(0), n as u16)
}

/// Has the hypervisor turn the driver's notifications into events, so that they cost the guest no exit to here.
fn ring(
    mmio: &Mmio<Memory>,
    doorbells: &Doorbells,
    vm: &dyn Vm,
    wires: &mut Vec<Guard>,
) -> Result<(), MachineError> {
    for notification in mmio.notifications() {
        let Some(event) = doorbells.event(notification.queue) else { continue };
        let address = IoAddress::Mmio(u64::from(mmio.config().base) + notification.offset);
        let datamatch = notification.datamatch.map(|value| Datamatch { value, len: notification.width });
        wires.push(vm.register_ioeventfd(event, address, datamatch)?);
    }
    Ok(())
}
