//! Disks that come and go.

use super::{Answer, Monitor, Removal, RequestError};
use crate::config::DiskConfig;
use crate::events::EventKind;
use crate::machine::Unplugged;
use drystone_lifecycle::State;
use std::sync::mpsc::Sender;

/// Those who wait for the guest to let go of a disk.
#[derive(Default)]
pub(super) struct Removals(Vec<(String, Sender<Answer>)>);

impl Removals {
    fn answer(&mut self, name: &str, answer: impl Fn() -> Answer) {
        for (_, waiting) in self.0.extract_if(.., |(waits_for, _)| waits_for == name) {
            // Whoever asked may have gone away meanwhile.
            let _ = waiting.send(answer());
        }
    }
}

impl Monitor {
    pub(super) fn add_disk(&mut self, disk: &DiskConfig) -> Result<(), RequestError> {
        self.there("add a disk")?;
        let (name, slot) = self.machine.plug_disk(disk).map_err(|e| RequestError::Plug(Box::new(e)))?;
        self.machine.journal().note(EventKind::DiskAdded, Some(format!("{name}, PCI slot {slot}")));
        Ok(())
    }

    /// `answer` is answered when the disk is gone, or when the guest's time is up.
    pub(super) fn remove_disk(&mut self, name: String, removal: Removal, answer: Sender<Answer>) {
        let done = match removal {
            Removal::Surprise => self.pull_disk(&name),
            Removal::Orderly { patience } => match self.ask_for_disk(&name, patience) {
                Ok(()) => return self.removals.0.push((name, answer)),
                refused => refused,
            },
        };
        let _ = answer.send(done.map(|()| self.machine.orchestrator.state()));
    }

    fn pull_disk(&mut self, name: &str) -> Result<(), RequestError> {
        self.there("remove a disk")?;
        self.machine.pull_disk(name)?;
        self.machine.journal().note(EventKind::DiskPulled, Some(name.into()));
        // Who wanted the guest to let go of it first has waited long enough.
        let state = self.machine.orchestrator.state();
        self.removals.answer(name, || Ok(state));
        Ok(())
    }

    fn ask_for_disk(&mut self, name: &str, patience: std::time::Duration) -> Result<(), RequestError> {
        self.running("ask the guest for a disk")?;
        self.machine.ask_for_disk(name, patience)?;
        let detail = format!("{name}, within {} ms", patience.as_millis());
        self.machine.journal().note(EventKind::DiskRequested, Some(detail));
        Ok(())
    }

    /// Looks what the guest has let go of, and what it should have.
    pub(super) fn unplugged(&mut self) {
        for unplugged in self.machine.unplugged() {
            match unplugged {
                Unplugged::Gone { name, requested } => {
                    self.gone(
                        &name,
                        if requested { "ejected as asked" } else { "ejected by the guest itself" },
                    );
                }
                Unplugged::Overdue { name } => {
                    self.machine.journal().note(EventKind::DiskRequestTimeout, Some(name.clone()));
                    self.removals.answer(&name, || Err(RequestError::Overdue(name.clone())));
                }
            }
        }
    }

    fn gone(&mut self, name: &str, how: &str) {
        self.machine.journal().note(EventKind::DiskRemoved, Some(format!("{name}, {how}")));
        let state = self.machine.orchestrator.state();
        self.removals.answer(name, || Ok(state));
    }

    /// Hot plug is for a machine that has a guest, be it paused.
    fn there(&self, attempt: &'static str) -> Result<(), RequestError> {
        match self.machine.orchestrator.state() {
            State::Running | State::Paused => Ok(()),
            state => Err(RequestError::NotRunning { attempt, state }),
        }
    }
}
