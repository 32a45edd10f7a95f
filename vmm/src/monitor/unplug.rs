//! Devices that come and go.

use super::{Answer, Monitor, Removal, RequestError};
use crate::config::{DiskConfig, NetConfig};
use crate::events::EventKind;
use crate::machine::{DeviceId, Unplugged};
use drystone_lifecycle::State;
use std::sync::mpsc::Sender;

/// Those who wait for the guest to let go of a device.
#[derive(Default)]
pub(super) struct Removals(Vec<(DeviceId, Sender<Answer>)>);

impl Removals {
    fn answer(&mut self, device: &DeviceId, answer: impl Fn() -> Answer) {
        for (_, waiting) in self.0.extract_if(.., |(waits_for, _)| waits_for == device) {
            // Whoever asked may have gone away meanwhile.
            let _ = waiting.send(answer());
        }
    }
}

/// What is told when a device comes, is asked for, is not let go of in time, is pulled, or goes.
struct Told {
    added: EventKind,
    requested: EventKind,
    overdue: EventKind,
    pulled: EventKind,
    removed: EventKind,
}

const OF_DISKS: Told = Told {
    added: EventKind::DiskAdded,
    requested: EventKind::DiskRequested,
    overdue: EventKind::DiskRequestTimeout,
    pulled: EventKind::DiskPulled,
    removed: EventKind::DiskRemoved,
};

const OF_NETS: Told = Told {
    added: EventKind::NetAdded,
    requested: EventKind::NetRequested,
    overdue: EventKind::NetRequestTimeout,
    pulled: EventKind::NetPulled,
    removed: EventKind::NetRemoved,
};

fn told(device: &DeviceId) -> Told {
    match device {
        DeviceId::Disk(_) => OF_DISKS,
        DeviceId::Net(_) => OF_NETS,
    }
}

impl Monitor {
    pub(super) fn add_disk(&mut self, disk: &DiskConfig) -> Result<(), RequestError> {
        self.there("add a disk")?;
        let added = self.machine.plug_disk(disk);
        let (name, slot) = added.map_err(|e| RequestError::Plug(Box::new(e)))?;
        self.machine.journal().note(OF_DISKS.added, Some(format!("{name}, PCI slot {slot}")));
        Ok(())
    }

    pub(super) fn add_net(&mut self, net: &NetConfig) -> Result<(), RequestError> {
        self.there("add a network device")?;
        let (name, slot) = self.machine.plug_net(net).map_err(|e| RequestError::Plug(Box::new(e)))?;
        self.machine.journal().note(OF_NETS.added, Some(format!("{name}, PCI slot {slot}")));
        Ok(())
    }

    /// `answer` is answered when the device is gone, or when the guest's time is up.
    pub(super) fn remove(&mut self, device: DeviceId, removal: Removal, answer: Sender<Answer>) {
        let done = match removal {
            Removal::Surprise => self.pull(&device),
            Removal::Orderly { patience } => match self.ask_for(&device, patience) {
                Ok(()) => return self.removals.0.push((device, answer)),
                refused => refused,
            },
        };
        let _ = answer.send(done.map(|()| self.machine.orchestrator.state()));
    }

    fn pull(&mut self, device: &DeviceId) -> Result<(), RequestError> {
        self.there("remove a device")?;
        self.machine.pull(device)?;
        self.machine.journal().note(told(device).pulled, Some(device.name().into()));
        // Who wanted the guest to let go of it first has waited long enough.
        let state = self.machine.orchestrator.state();
        self.removals.answer(device, || Ok(state));
        Ok(())
    }

    fn ask_for(&mut self, device: &DeviceId, patience: std::time::Duration) -> Result<(), RequestError> {
        self.running("ask the guest for a device")?;
        self.machine.ask_for(device, patience)?;
        let detail = format!("{}, within {} ms", device.name(), patience.as_millis());
        self.machine.journal().note(told(device).requested, Some(detail));
        Ok(())
    }

    /// Looks what the guest has let go of, and what it should have.
    pub(super) fn unplugged(&mut self) {
        for unplugged in self.machine.unplugged() {
            match unplugged {
                Unplugged::Gone { device, requested } => {
                    self.gone(
                        &device,
                        if requested { "ejected as asked" } else { "ejected by the guest itself" },
                    );
                }
                Unplugged::Overdue { device } => {
                    self.machine.journal().note(told(&device).overdue, Some(device.name().into()));
                    self.removals.answer(&device, || Err(RequestError::Overdue(device.clone())));
                }
            }
        }
    }

    fn gone(&mut self, device: &DeviceId, how: &str) {
        self.machine.journal().note(told(device).removed, Some(format!("{}, {how}", device.name())));
        let state = self.machine.orchestrator.state();
        self.removals.answer(device, || Ok(state));
    }

    /// Hot plug is for a machine that has a guest, be it paused.
    fn there(&self, attempt: &'static str) -> Result<(), RequestError> {
        match self.machine.orchestrator.state() {
            State::Running | State::Paused => Ok(()),
            state => Err(RequestError::NotRunning { attempt, state }),
        }
    }
}
