//! Devices that come and go while the guest runs.

use super::{DeviceId, Machine, MachineError};
use crate::config::{DiskConfig, NetConfig, Transport};
use drystone_pci::{EjectError, HotPlugEvent};
use std::time::Duration;

/// Why a device does not go.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnplugError {
    /// There is none of that name.
    #[error("there is no {0}")]
    NoDevice(DeviceId),
    /// Only what is on PCI can be removed.
    #[error("{0} is on virtio-mmio, from which nothing can be removed")]
    NotOnPci(DeviceId),
    /// The guest was asked already.
    #[error("{device}: {cause}")]
    Eject {
        /// The device.
        device: DeviceId,
        /// Why not.
        cause: EjectError,
    },
}

/// What became of a device that the guest was to let go of.
pub(crate) enum Unplugged {
    /// It is gone. `requested`: and the guest had been asked for it.
    Gone { device: DeviceId, requested: bool },
    /// The guest has not let go of it in time.
    Overdue { device: DeviceId },
}

impl Machine {
    /// Adds a disk and tells the guest. Gives its name and its PCI slot.
    pub(crate) fn plug_disk(&mut self, disk: &DiskConfig) -> Result<(String, u8), MachineError> {
        let (name, slot) = self.virtio.plug_disk(disk, &mut self.orchestrator)?;
        let transport = Some(Transport::Pci);
        self.config.disk.push(DiskConfig { id: Some(name.clone()), transport, ..disk.clone() });
        Ok((name, slot))
    }

    /// Adds a network device and tells the guest. Gives its name and its PCI slot.
    pub(crate) fn plug_net(&mut self, net: &NetConfig) -> Result<(String, u8), MachineError> {
        let machine = self.config.id.as_deref().unwrap_or_default();
        let (name, mac, slot) = self.virtio.plug_net(net, machine, &mut self.orchestrator)?;
        let (id, mac, transport) = (Some(name.clone()), Some(mac), Some(Transport::Pci));
        self.config.net.push(NetConfig { id, mac, transport, ..net.clone() });
        Ok((name, slot))
    }

    /// Asks the guest to let go of a device within `patience`. What comes of it is told by [`unplugged`](Self::unplugged).
    pub(crate) fn ask_for(&self, device: &DeviceId, patience: Duration) -> Result<(), UnplugError> {
        let slot = self.slot_of(device)?;
        let hot_plug = self.devices.pci.hot_plug();
        hot_plug.request(slot, patience).map_err(|cause| UnplugError::Eject { device: device.clone(), cause })
    }

    /// Takes a device away whatever the guest is doing with it. It fails from now on, and stays in its slot as that until the guest
    /// has let go of it, as is told by [`unplugged`](Self::unplugged).
    pub(crate) fn pull(&self, device: &DeviceId) -> Result<(), UnplugError> {
        let slot = self.slot_of(device)?;
        self.virtio.handles().pull(device);
        let hot_plug = self.devices.pci.hot_plug();
        hot_plug.pull(slot).map_err(|cause| UnplugError::Eject { device: device.clone(), cause })
    }

    fn forget(&mut self, slot: u8) -> Option<DeviceId> {
        let device = self.virtio.unplugged(slot, &mut self.orchestrator)?;
        match &device {
            DeviceId::Disk(name) => self.config.disk.retain(|disk| disk.id.as_ref() != Some(name)),
            DeviceId::Net(name) => self.config.net.retain(|net| net.id.as_ref() != Some(name)),
        }
        Some(device)
    }

    fn slot_of(&self, device: &DeviceId) -> Result<u8, UnplugError> {
        let slot = self.virtio.slot_of(device).ok_or_else(|| UnplugError::NoDevice(device.clone()))?;
        slot.ok_or_else(|| UnplugError::NotOnPci(device.clone()))
    }

    /// What has become of devices since the last call.
    pub(crate) fn unplugged(&mut self) -> Vec<Unplugged> {
        let events = self.devices.pci.hot_plug().take();
        if !events.is_empty() {
            self.devices.pci.relocate();
        }
        let mut unplugged = Vec::new();
        for event in events {
            match event {
                HotPlugEvent::Ejected { slot, function, requested } => {
                    drop(function);
                    let device = self.forget(slot);
                    unplugged.extend(device.map(|device| Unplugged::Gone { device, requested }));
                }
                HotPlugEvent::Overdue { slot } => {
                    let device = self.virtio.in_slot(slot);
                    unplugged.extend(device.map(|device| Unplugged::Overdue { device }));
                }
            }
        }
        unplugged
    }

    /// How long until it has to be looked whether the guest has let go of what it was asked for.
    pub(crate) fn unplug_time_left(&self) -> Option<Duration> {
        self.devices.pci.time_left()
    }
}
