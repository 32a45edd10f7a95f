use super::Monitor;
use crate::events::EventKind;
use crate::snapshot::{SnapshotError, SnapshotRequest, Then};
use drystone_lifecycle::{Cause, State};
use drystone_snapshot::Manifest;
use std::time::Instant;

impl Monitor {
    /// Has the machine stand still and writes it down. Whatever comes of that, it goes on as it was, unless it is written and
    /// something else was wished for then.
    pub(super) fn write_snapshot(&mut self, request: &SnapshotRequest) -> Result<(), SnapshotError> {
        let orchestrator = &mut self.machine.orchestrator;
        // Before anything is paused.
        orchestrator.savable()?;
        let was_running = orchestrator.state() == State::Running;
        let begun = Instant::now();
        orchestrator.pause()?;
        // What the guest has let go of is not part of the machine.
        self.unplugged();
        let written = self.mailbox.snapshot.clone().during(|progress| self.machine.write(request, progress));
        match &written {
            Ok(manifest) => self.note(request, manifest, begun),
            Err(e) => self.machine.journal().note(EventKind::Error, Some(e.to_string())),
        }
        let orchestrator = &mut self.machine.orchestrator;
        match request.then {
            Then::Stop if written.is_ok() => orchestrator.stop(Cause::Operator),
            Then::Pause if written.is_ok() => {}
            _ if was_running => orchestrator.resume()?,
            _ => {}
        }
        written.map(drop)
    }

    fn note(&self, request: &SnapshotRequest, manifest: &Manifest, begun: Instant) {
        let what = format!(
            "{}: {} KiB of {} MiB memory, in {} ms",
            request.dir.display(),
            manifest.memory.data >> 10,
            manifest.memory.len >> 20,
            begun.elapsed().as_millis()
        );
        self.machine.journal().note(EventKind::Snapshot, Some(what));
        self.machine.tell_unsaved();
    }
}
