//! The thread that owns a machine. Everything that wants something of it is a message: the control socket, signals, the
//! console's escape key, and what happens on vCPUs.

mod follow;
mod shutdown;
mod snapshot;
mod unplug;

use crate::config::{DiskConfig, NetConfig};
use crate::machine::{DeviceId, Machine, MachineError, UnplugError};
use crate::snapshot::{Current, SnapshotError, SnapshotRequest};
use drystone_chipset::KeyboardError;
use drystone_hypervisor::RunError;
use drystone_lifecycle::{Cause, Error, State, Verb, Verdict};
use drystone_state::ComponentError;
use drystone_vcpu::{VcpuEvent, VcpuEventKind};
use shutdown::Shutdown;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;
use unplug::Removals;

/// What can be asked of a running machine from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// A step in its life.
    Life(Verb),
    /// A press of the power button, which the guest may heed.
    PowerButton,
    /// Ctrl-Alt-Del on its keyboard.
    CtrlAltDel,
    /// A non-maskable interrupt, for the vCPU of that number or for all.
    Nmi(Option<u32>),
    /// Ask the guest to shut down, and end it when it has not after that time. The answer comes when it has ended, and other
    /// requests are followed meanwhile; asked again, the new time counts.
    Shutdown(Duration),
    /// Write the machine down. It stands still meanwhile, and other requests wait.
    Snapshot(SnapshotRequest),
    /// A disk more.
    AddDisk(Box<DiskConfig>),
    /// A network device more.
    AddNet(Box<NetConfig>),
    /// A device less. The answer comes when it is gone, or when the guest has not let go of it in time; other requests are
    /// followed meanwhile.
    Remove(DeviceId, Removal),
}

/// How a device is taken from a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// The guest is asked to let go of it.
    Orderly {
        /// How long it may take.
        patience: Duration,
    },
    /// It is pulled, whatever the guest is doing with it.
    Surprise,
}

/// Why a request was not followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The state does not allow it, or a part failed.
    #[error(transparent)]
    Lifecycle(#[from] Error),
    /// Nothing can be told to a machine that does not run.
    #[error("cannot {attempt} on a machine that is {state}")]
    NotRunning {
        /// What was tried.
        attempt: &'static str,
        /// Where it is.
        state: State,
    },
    /// Nobody listens to the keyboard.
    #[error("cannot type Ctrl-Alt-Del: {0}")]
    Keyboard(#[from] KeyboardError),
    /// There is no such vCPU.
    #[error("cannot send a non-maskable interrupt: there is no vCPU {0}")]
    NoVcpu(u32),
    /// The hypervisor refused.
    #[error("cannot send a non-maskable interrupt: {0}")]
    Nmi(drystone_hypervisor::Error),
    /// It was not written down, and goes on as it was.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The device cannot be made or has no place.
    #[error(transparent)]
    Plug(Box<MachineError>),
    /// There is no such device to be removed.
    #[error(transparent)]
    Unplug(#[from] UnplugError),
    /// The guest has not let go of the device. It is still there.
    #[error("the guest has not let go of {0} in time: ask again, or remove it by surprise")]
    Overdue(DeviceId),
    /// Somebody reset the machine that was to shut down.
    #[error("the machine was reset instead")]
    Superseded,
    /// The machine has ended.
    #[error("the machine has ended")]
    Gone,
}

type Answer = Result<State, RequestError>;

pub(crate) enum Message {
    Request(Request, Sender<Answer>),
    Vcpu(VcpuEvent),
    /// From whoever waits for no answer: a signal, the escape key, a device.
    End(Cause),
    /// Something that the guest has let go of is to be taken.
    HotPlug,
    Pause(Cause),
}

/// Sends requests to a machine's monitor. Cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Handle {
    monitor: Sender<Message>,
    snapshot: Current,
}

impl Handle {
    /// Asks, and waits until it is done; returns the state that the machine is then in.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn request(&self, request: Request) -> Result<State, RequestError> {
        let (answer, answers) = mpsc::channel();
        self.monitor.send(Message::Request(request, answer)).map_err(|_| RequestError::Gone)?;
        answers.recv().unwrap_or(Err(RequestError::Gone))
    }

    /// Ends the machine, and does not wait for it.
    pub fn end(&self, cause: Cause) {
        self.snapshot.cancel();
        // If nobody listens any more, it has ended.
        let _ = self.monitor.send(Message::End(cause));
    }

    pub(crate) fn hot_plug(&self) {
        let _ = self.monitor.send(Message::HotPlug);
    }

    /// Makes the machine stand still, and does not wait for it.
    pub fn pause(&self, cause: Cause) {
        let _ = self.monitor.send(Message::Pause(cause));
    }

    pub(crate) fn vcpu_event(&self, event: VcpuEvent) {
        let _ = self.monitor.send(Message::Vcpu(event));
    }

    /// The snapshot that is just being written.
    pub fn snapshot(&self) -> &Current {
        &self.snapshot
    }
}

/// A machine's mailbox; made before the machine, whose vCPUs write to it.
pub struct Mailbox {
    messages: Receiver<Message>,
    snapshot: Current,
}

/// A handle, and where what it sends arrives.
pub fn mailbox() -> (Handle, Mailbox) {
    let (sender, receiver) = mpsc::channel();
    let snapshot = Current::default();
    (Handle { monitor: sender, snapshot: snapshot.clone() }, Mailbox { messages: receiver, snapshot })
}

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub cause: Cause,
    /// What the user can do about it; may be empty.
    pub hint: &'static str,
}

impl Mailbox {
    /// Boots `machine`, or has it go on where it was saved. From now on its guest runs, until what this answers is dropped;
    /// somebody must serve it.
    ///
    /// # Errors
    /// [`Error`] when it cannot be started.
    pub fn begin(self, mut machine: Machine) -> Result<Monitor, Error> {
        machine.begin()?;
        Ok(Monitor {
            mailbox: self,
            machine,
            shutdown: Shutdown::default(),
            removals: Removals::default(),
            hint: "",
        })
    }

    fn next(&self, time: Option<Duration>) -> Result<Message, RecvTimeoutError> {
        match time {
            Some(left) => self.messages.recv_timeout(left),
            None => self.messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }
}

/// The owner of a machine that has begun.
#[must_use = "dropping it ends the machine"]
pub struct Monitor {
    mailbox: Mailbox,
    machine: Machine,
    shutdown: Shutdown,
    removals: Removals,
    /// For the user, should the machine have ended over it.
    hint: &'static str,
}

impl Monitor {
    /// Serves the machine until it ends. When this returns, no vCPU runs any more.
    ///
    /// # Errors
    /// [`MachineError`] when nobody can serve its devices.
    pub fn serve(mut self) -> Result<End, MachineError> {
        let reader = self.machine.orchestrator.reader();
        self.machine.serve_devices()?;
        while reader.state() != State::Stopped {
            match self.mailbox.next(self.time_left()) {
                Ok(message) => self.handle(message),
                Err(RecvTimeoutError::Timeout) => self.time_is_up(),
                // Nobody is left who could ask for anything, not even for an end.
                Err(RecvTimeoutError::Disconnected) => self.machine.orchestrator.stop(Cause::Operator),
            }
        }
        self.shutdown.ended();
        self.machine.vcpus.stop();
        Ok(End { cause: reader.wait_stopped(), hint: self.hint })
    }

    /// Until something is to be done that no message asks for.
    fn time_left(&self) -> Option<Duration> {
        [self.shutdown.time_left(), self.machine.unplug_time_left()].into_iter().flatten().min()
    }

    fn time_is_up(&mut self) {
        self.unplugged();
        if self.shutdown.time_left().is_some_and(|left| left.is_zero()) {
            self.force();
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::End(cause) => self.machine.orchestrator.stop(cause),
            Message::Pause(cause) => self.pause(cause),
            Message::Vcpu(event) if self.machine.vcpus.is_current(&event) => self.vcpu_event(&event),
            Message::Vcpu(_) => {}
            Message::HotPlug => self.unplugged(),
            Message::Request(Request::Shutdown(time), answer) => self.shut_down(time, answer),
            Message::Request(Request::Remove(device, how), answer) => self.remove(device, how, answer),
            Message::Request(request, answer) => {
                let done = self.follow(request);
                // Whoever asked may have gone away meanwhile.
                let _ = answer.send(done.map(|()| self.machine.orchestrator.state()));
            }
        }
    }

    /// A machine that cannot stand still for its own good is ended.
    fn pause(&mut self, cause: Cause) {
        let orchestrator = &mut self.machine.orchestrator;
        if orchestrator.pause_for(cause.clone()).is_err() {
            orchestrator.stop(cause);
        }
    }

    fn vcpu_event(&mut self, event: &VcpuEvent) {
        let orchestrator = &mut self.machine.orchestrator;
        let done = match &event.kind {
            VcpuEventKind::Effect(effect) => match orchestrator.apply(*effect) {
                Ok(Verdict::Release) => self.release(event),
                done => done.map(drop),
            },
            VcpuEventKind::TripleFault => orchestrator.triple_fault(),
            VcpuEventKind::Fault(error) => {
                orchestrator.stop(Cause::Fault(error.to_string()));
                self.hint = hint(error);
                Ok(())
            }
            VcpuEventKind::Halted => {
                let what = format!("vCPU {} halted, and nothing can wake it", event.id);
                orchestrator.stop(Cause::Fault(what));
                Ok(())
            }
            other => {
                orchestrator.stop(Cause::Fault(format!("vCPU {}: {other:?}", event.id)));
                Ok(())
            }
        };
        if let Err(error) = done {
            // What the guest asked for cannot be had: it must not go on as if it had never asked.
            self.machine.orchestrator.stop(Cause::Fault(error.to_string()));
        }
    }

    /// Lets the vCPU that made `event` go on.
    fn release(&self, event: &VcpuEvent) -> Result<(), Error> {
        self.machine.vcpus.release(event).map_err(|cause| Error::Component {
            verb: Verb::Resume,
            name: "vcpus".into(),
            cause: ComponentError::new(cause),
        })
    }
}

fn hint(error: &RunError) -> &'static str {
    match error {
        RunError::Emulation { .. } => {
            "this host's KVM interprets the guest's kernel in software and lacks that instruction; a machine with \
             hardware virtualisation runs it, and so does the lab: `cargo boot`, `cargo lab`"
        }
        _ => "",
    }
}
