use super::{Shared, Slot, ThreadSetup, lock};
use crate::counters::count;
use crate::event::Held;
use crate::gate::Turn;
use crate::{BusIo, VcpuEventKind};
use drystone_hypervisor::{Exit, RunError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

/// What makes a thread ready, to be called on it: whether the thread may go on. Whoever makes the set waits for the answer,
/// if there is one to wait for.
pub(super) fn setup(
    setup: Option<ThreadSetup>,
    place: usize,
) -> (impl FnOnce() -> bool + Send, Option<Receiver<io::Result<()>>>) {
    let (call, answer) = setup
        .map(|setup| {
            let (sender, receiver) = mpsc::channel();
            ((setup, sender), receiver)
        })
        .unzip();
    let call = move || {
        let Some((setup, sender)) = call else { return true };
        // It is somebody else's, and whoever makes the set waits for its answer.
        let panicked = |_| Err(io::Error::other("it panicked"));
        let done = catch_unwind(AssertUnwindSafe(|| setup(place))).unwrap_or_else(panicked);
        let ready = done.is_ok();
        let _ = sender.send(done);
        ready
    };
    (call, answer)
}

/// What a vCPU's thread does.
pub(super) struct Worker {
    slot: Arc<Slot>,
    shared: Arc<Shared>,
    io: BusIo,
}

impl Worker {
    pub(super) fn new(slot: Arc<Slot>, shared: Arc<Shared>, io: BusIo) -> Self {
        Self { slot, shared, io }
    }

    /// Until the gate says to end.
    pub(super) fn serve(mut self) {
        let slot = self.slot.clone();
        slot.gate.serve(|| self.turn());
    }

    /// One entry into the guest. It never unwinds: whoever pauses the machine waits for this thread.
    fn turn(&mut self) -> Turn {
        let event = match catch_unwind(AssertUnwindSafe(|| self.enter())) {
            Ok(Next::Turn(turn)) => return turn,
            Ok(Next::Event(kind)) => kind,
            Err(_) => {
                // Of the instruction that ends here, and not of what runs after a reset.
                self.io.take_effect();
                let what = "a device panicked while it answered the guest".into();
                VcpuEventKind::Fault(RunError::Unexpected { id: self.slot.id, what })
            }
        };
        self.io.staying_out();
        if matches!(event, VcpuEventKind::Fault(_)) {
            count(&self.slot.counters.faults);
        }
        *lock(&self.slot.held) = Some(Held::from_kind(&event));
        let _ = catch_unwind(AssertUnwindSafe(|| self.shared.report(self.slot.id, event)));
        Turn::Hold
    }

    fn enter(&mut self) -> Next {
        let mut vcpu = lock(&self.slot.vcpu);
        self.io.entering();
        let outcome = vcpu.run(&mut self.io);
        drop(vcpu);
        if let (Some(_), Ok(Exit::Io)) = (self.io.effect(), &outcome) {
            // The instruction completes when the vCPU next enters the guest. The kick ends that entry right there.
            self.slot.kicker.kick();
            return Next::Turn(Turn::Again);
        }
        let counters = &self.slot.counters;
        match outcome {
            Ok(Exit::Interrupted) => count(&counters.interrupted),
            Ok(Exit::Halted) => count(&counters.halted),
            Ok(Exit::Shutdown) => count(&counters.shutdown),
            _ => {}
        }
        if let Some(effect) = self.io.take_effect() {
            return Next::Event(VcpuEventKind::Effect(effect));
        }
        match outcome {
            Ok(Exit::Io) => Next::Turn(Turn::Again),
            Ok(Exit::Interrupted) => Next::Turn(Turn::Interrupted),
            Ok(Exit::Halted) => Next::Event(VcpuEventKind::Halted),
            Ok(Exit::Shutdown) => Next::Event(VcpuEventKind::TripleFault),
            Ok(other) => {
                let what = format!("{other:?}");
                Next::Event(VcpuEventKind::Fault(RunError::Unexpected { id: self.slot.id, what }))
            }
            Err(error) => Next::Event(VcpuEventKind::Fault(error)),
        }
    }
}

enum Next {
    Turn(Turn),
    Event(VcpuEventKind),
}
