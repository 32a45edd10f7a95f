//! Disks that come and go while the guest runs.

use super::{Machine, MachineError};
use crate::config::{DiskConfig, Transport};
use drystone_pci::{EjectError, HotPlugEvent};
use std::time::Duration;

/// Why a disk does not go.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnplugError {
    /// There is none of that name.
    #[error("there is no disk `{0}`")]
    NoDisk(String),
    /// Only what is on PCI can be removed.
    #[error("disk `{0}` is on virtio-mmio, from which nothing can be removed")]
    NotOnPci(String),
    /// The guest was asked already.
    #[error("disk `{name}`: {cause}")]
    Eject {
        /// Its name.
        name: String,
        /// Why not.
        cause: EjectError,
    },
}

/// What became of a disk that the guest was to let go of.
pub(crate) enum Unplugged {
    /// It is gone. `requested`: and the guest had been asked for it.
    Gone { name: String, requested: bool },
    /// The guest has not let go of it in time.
    Overdue { name: String },
}

impl Machine {
    /// Adds a disk and tells the guest. Gives its name and its PCI slot.
    pub(crate) fn plug_disk(&mut self, disk: &DiskConfig) -> Result<(String, u8), MachineError> {
        let (name, slot) = self.virtio.plug_disk(disk, &mut self.orchestrator)?;
        let transport = Some(Transport::Pci);
        self.config.disk.push(DiskConfig { id: Some(name.clone()), transport, ..disk.clone() });
        Ok((name, slot))
    }

    /// Asks the guest to let go of a disk within `patience`. What comes of it is told by [`unplugged`](Self::unplugged).
    pub(crate) fn ask_for_disk(&self, name: &str, patience: Duration) -> Result<(), UnplugError> {
        let slot = self.slot_of_disk(name)?;
        let hot_plug = self.devices.pci.hot_plug();
        hot_plug.request(slot, patience).map_err(|cause| UnplugError::Eject { name: name.into(), cause })
    }

    /// Takes a disk away whatever the guest is doing with it. It fails from now on, and stays in its slot as that until the guest
    /// has let go of it, as is told by [`unplugged`](Self::unplugged).
    pub(crate) fn pull_disk(&self, name: &str) -> Result<(), UnplugError> {
        let slot = self.slot_of_disk(name)?;
        self.virtio.handles().pull_disk(name);
        let hot_plug = self.devices.pci.hot_plug();
        hot_plug.pull(slot).map_err(|cause| UnplugError::Eject { name: name.into(), cause })
    }

    fn forget(&mut self, slot: u8) -> Option<String> {
        let name = self.virtio.unplugged(slot, &mut self.orchestrator)?;
        self.config.disk.retain(|disk| disk.id.as_ref() != Some(&name));
        Some(name)
    }

    fn slot_of_disk(&self, name: &str) -> Result<u8, UnplugError> {
        let slot = self.virtio.slot_of_disk(name).ok_or_else(|| UnplugError::NoDisk(name.into()))?;
        slot.ok_or_else(|| UnplugError::NotOnPci(name.into()))
    }

    /// What has become of disks since the last call.
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
                    let name = self.forget(slot);
                    unplugged.extend(name.map(|name| Unplugged::Gone { name, requested }));
                }
                HotPlugEvent::Overdue { slot } => {
                    let name = self.virtio.name_of(slot);
                    unplugged.extend(name.map(|name| Unplugged::Overdue { name }));
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
