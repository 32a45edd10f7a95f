//! A machine written down, and where one comes from.

use super::cpuid::SavedCpuid;
use super::payload::Payload;
use super::slots::SavedSlots;
use super::{DeviceId, Machine, MachineError};
use crate::config::{Config, DiskConfig};
use crate::events::EventKind;
use crate::snapshot::{RestoreOptions, SnapshotError, SnapshotRequest};
use drystone_lifecycle::{Orchestrator, SavedPart};
use drystone_memory::{GuestRam, Layout};
use drystone_snapshot::{About, Content, Manifest, MemoryRange, Options, Outside, Progress, Snapshot};
use drystone_state::Blob;
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where a machine comes from.
#[derive(Clone, Copy)]
pub(crate) enum Origin<'a> {
    /// From its kernel.
    Boot,
    /// From a snapshot; it goes on where that was made, at once or when it is resumed.
    Restore { snapshot: &'a Snapshot, options: RestoreOptions },
}

/// What a machine does first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    Boot,
    Resume,
    /// Nothing, until it is told to.
    Wait,
}

impl Origin<'_> {
    /// The kernel. Whoever restores a machine needs it only should that be reset.
    pub(super) fn payload(&self, config: &Config) -> Result<Result<Payload, String>, MachineError> {
        match (Payload::open(config), self) {
            (Err(e), Self::Boot) => Err(e),
            (payload, _) => Ok(payload.map_err(|e| e.to_string())),
        }
    }

    /// What its vCPUs must answer to CPUID, if that is not to be decided here.
    pub(super) fn cpuid(&self) -> Result<Option<SavedCpuid>, MachineError> {
        let Self::Restore { snapshot, .. } = self else { return Ok(None) };
        let lacking = || MachineError::Restore("the snapshot says nothing of the guest's processors".into());
        let blob = snapshot.parts().get(SavedCpuid::PART).ok_or_else(lacking)?;
        blob.decode().map(Some).map_err(|e| MachineError::Restore(e.to_string()))
    }

    /// Where its devices are, if that is not to be decided here.
    pub(super) fn slots(&self) -> Result<Option<SavedSlots>, MachineError> {
        let Self::Restore { snapshot, .. } = self else { return Ok(None) };
        let lacking = || MachineError::Restore("the snapshot says nothing of the guest's PCI slots".into());
        let blob = snapshot.parts().get(SavedSlots::PART).ok_or_else(lacking)?;
        blob.decode().map(Some).map_err(|e| MachineError::Restore(e.to_string()))
    }

    /// What a restored machine makes of it; one that boots has no past that it could matter for.
    pub(super) fn options(&self) -> RestoreOptions {
        match self {
            Self::Boot => RestoreOptions::default(),
            Self::Restore { options, .. } => *options,
        }
    }

    pub(super) fn ram(&self, layout: &Layout, config: &Config) -> Result<GuestRam, MachineError> {
        let Self::Restore { snapshot, .. } = self else {
            return Ok(GuestRam::new(layout, &config.memory.ram())?);
        };
        let range = |r: drystone_memory::RamRange| MemoryRange { base: r.base, len: r.len };
        if !layout.ram().into_iter().map(range).eq(snapshot.map().ranges().iter().copied()) {
            return Err(MachineError::Restore("the saved memory is not that of its configuration".into()));
        }
        let memory = snapshot.memory().map_err(|e| MachineError::Restore(format!("guest memory: {e}")))?;
        Ok(GuestRam::from_file(layout, &config.memory.ram(), memory)?)
    }

    /// Gives all parts the state that they had.
    pub(super) fn restore(&self, orchestrator: &mut Orchestrator) -> Result<Begin, MachineError> {
        let Self::Restore { snapshot, options } = self else { return Ok(Begin::Boot) };
        let parts = snapshot
            .parts()
            .iter()
            .filter(|(name, _)| ![SavedCpuid::PART, SavedSlots::PART].contains(&name.as_str()));
        let part = |(name, state): (&String, &Blob)| SavedPart { name: name.clone(), state: state.clone() };
        orchestrator.restore(&parts.map(part).collect::<Vec<_>>())?;
        Ok(if options.paused { Begin::Wait } else { Begin::Resume })
    }
}

impl Machine {
    /// Does what it is to do first.
    pub(crate) fn begin(&mut self) -> Result<(), drystone_lifecycle::Error> {
        match self.begin {
            Begin::Boot => self.orchestrator.boot(),
            Begin::Resume => self.orchestrator.resume(),
            Begin::Wait => Ok(()),
        }
    }

    /// Tells what the state lacks that was just saved or restored. The machine is paused.
    pub(crate) fn tell_unsaved(&self) {
        match self.vcpus.unsaved() {
            Ok(names) if names.is_empty() => {}
            Ok(names) => self.journal.note(EventKind::SnapshotLacks, Some(listed(&names))),
            Err(e) => self.journal.note(EventKind::Error, Some(e.to_string())),
        }
    }

    /// Writes the machine, which is paused, into a directory.
    pub(crate) fn write(
        &self,
        request: &SnapshotRequest,
        progress: &Progress,
    ) -> Result<Manifest, SnapshotError> {
        let mut parts = BTreeMap::new();
        let cpuid = Blob::encode(&self.cpus.cpuid).map_err(|e| SnapshotError::Encode(e.to_string()))?;
        parts.insert(SavedCpuid::PART.to_owned(), cpuid);
        let slots = Blob::encode(&self.virtio.slots()).map_err(|e| SnapshotError::Encode(e.to_string()))?;
        parts.insert(SavedSlots::PART.to_owned(), slots);
        parts.extend(self.orchestrator.save()?.into_iter().map(|part| (part.name, part.state)));
        let content = Content { about: self.about()?, parts, ram: &self.image.ram };
        let options = Options { memory_dir: request.memory_dir.clone(), ..Options::default() };
        Ok(drystone_snapshot::write(&request.dir, &content, &options, progress)?)
    }

    fn about(&self) -> Result<About, SnapshotError> {
        let mut config = self.config.absolute().map_err(|e| SnapshotError::Encode(e.to_string()))?;
        self.handles().write_limits(&mut config);
        let mut outside = Vec::new();
        let handles = self.handles();
        let there =
            |(index, disk): &(usize, &DiskConfig)| !handles.is_pulled(&DeviceId::Disk(disk.name(*index)));
        for (index, disk) in config.disk.iter().enumerate().filter(there) {
            let (name, path) = (disk.name(index), disk.path.clone());
            let look = Outside::look(&*name, &path);
            outside.push(look.map_err(|cause| SnapshotError::Outside { name, path, cause })?);
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(About {
            program: concat!("drystone ", env!("CARGO_PKG_VERSION")).into(),
            machine: config.id.clone().unwrap_or_default(),
            created_unix_ms: since.as_millis().try_into().unwrap_or(u64::MAX),
            config: serde_json::to_value(&config).map_err(|e| SnapshotError::Encode(e.to_string()))?,
            outside,
        })
    }
}

/// What a snapshot lacks, for people: it may come from anywhere, and name more than anybody reads.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 32;
    let more = names.len().saturating_sub(SHOWN);
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more == 0 { shown } else { format!("{shown}, and {more} more") }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_list_that_nobody_reads_is_cut_off() {
        let names: Vec<_> = (0..1000).map(|n| format!("MSR {n:#x}")).collect();
        assert_eq!(super::listed(&names[..2]), "MSR 0x0, MSR 0x1");
        let cut = super::listed(&names);
        assert!(cut.ends_with("MSR 0x1f, and 968 more"), "{cut}");
    }
}
