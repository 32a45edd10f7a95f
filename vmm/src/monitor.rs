//! The thread that owns a machine. Everything that wants something of it is a message: the control socket, signals, the
//! console's escape key, and what happens on vCPUs.

use crate::machine::Machine;
use drystone_hypervisor::RunError;
use drystone_lifecycle::{Cause, Error, State, Verb, Verdict};
use drystone_state::ComponentError;
use drystone_vcpu::{VcpuEvent, VcpuEventKind};
use std::sync::mpsc::{self, Receiver, Sender};

/// What can be asked of a running machine from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A step in its life.
    Life(Verb),
    /// A press of the power button, which the guest may heed.
    PowerButton,
}

/// Why a request was not followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The state does not allow it, or a part failed.
    #[error(transparent)]
    Lifecycle(#[from] Error),
    /// The button of a machine that does not run.
    #[error("cannot press the power button of a machine that is {0}")]
    NotRunning(State),
    /// The machine has ended.
    #[error("the machine has ended")]
    Gone,
}

type Answer = Result<State, RequestError>;

pub(crate) enum Message {
    Request(Request, Sender<Answer>),
    Vcpu(VcpuEvent),
    /// From whoever waits for no answer: a signal, the escape key.
    End(Cause),
}

/// Sends requests to a machine's monitor. Cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Handle(Sender<Message>);

impl Handle {
    /// Asks, and waits until it is done; returns the state that the machine is then in.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn request(&self, request: Request) -> Result<State, RequestError> {
        let (answer, answers) = mpsc::channel();
        self.0.send(Message::Request(request, answer)).map_err(|_| RequestError::Gone)?;
        answers.recv().unwrap_or(Err(RequestError::Gone))
    }

    /// Ends the machine, and does not wait for it.
    pub fn end(&self, cause: Cause) {
        // If nobody listens any more, it has ended.
        let _ = self.0.send(Message::End(cause));
    }

    pub(crate) fn vcpu_event(&self, event: VcpuEvent) {
        let _ = self.0.send(Message::Vcpu(event));
    }
}

/// A machine's mailbox; made before the machine, whose vCPUs write to it.
pub struct Mailbox(Receiver<Message>);

/// A handle, and where what it sends arrives.
pub fn mailbox() -> (Handle, Mailbox) {
    let (sender, receiver) = mpsc::channel();
    (Handle(sender), Mailbox(receiver))
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
    /// Boots `machine` and serves it until it ends. When this returns, no vCPU runs any more.
    ///
    /// # Errors
    /// [`Error`] when it cannot be booted.
    pub fn serve(self, mut machine: Machine) -> Result<End, Error> {
        let reader = machine.orchestrator.reader();
        let mut hint = "";
        machine.orchestrator.boot()?;
        while reader.state() != State::Stopped {
            match self.0.recv() {
                Ok(message) => hint = handle(&mut machine, message),
                // Nobody is left who could ask for anything, not even for an end.
                Err(_) => machine.orchestrator.stop(Cause::Operator),
            }
        }
        machine.vcpus.stop();
        Ok(End { cause: reader.wait_stopped(), hint })
    }
}

/// Does what a message asks for. Returns a hint for the user, should the machine have ended over it.
fn handle(machine: &mut Machine, message: Message) -> &'static str {
    match message {
        Message::End(cause) => machine.orchestrator.stop(cause),
        Message::Vcpu(event) if machine.vcpus.is_current(&event) => return vcpu_event(machine, event),
        Message::Vcpu(_) => {}
        Message::Request(request, answer) => {
            let done = follow(machine, request);
            // Whoever asked may have gone away meanwhile.
            let _ = answer.send(done.map(|()| machine.orchestrator.state()));
        }
    }
    ""
}

fn follow(machine: &mut Machine, request: Request) -> Result<(), RequestError> {
    let orchestrator = &mut machine.orchestrator;
    match request {
        Request::Life(Verb::Boot) => orchestrator.boot()?,
        Request::Life(Verb::Pause) => orchestrator.pause()?,
        Request::Life(Verb::Resume) => orchestrator.resume()?,
        Request::Life(Verb::Reset) => orchestrator.reset(Cause::Operator)?,
        Request::Life(Verb::Stop) => orchestrator.stop(Cause::Operator),
        Request::PowerButton => press_power_button(machine)?,
    }
    Ok(())
}

fn vcpu_event(machine: &mut Machine, event: VcpuEvent) -> &'static str {
    let done = match &event.kind {
        VcpuEventKind::Effect(effect) => match machine.orchestrator.apply(*effect) {
            Ok(Verdict::Release) => release(machine, &event),
            done => done.map(drop),
        },
        VcpuEventKind::TripleFault => machine.orchestrator.triple_fault(),
        VcpuEventKind::Fault(error) => {
            machine.orchestrator.stop(Cause::Fault(error.to_string()));
            return hint(error);
        }
        VcpuEventKind::Halted => {
            let what = format!("vCPU {} halted, and nothing can wake it", event.id);
            machine.orchestrator.stop(Cause::Fault(what));
            Ok(())
        }
        other => {
            machine.orchestrator.stop(Cause::Fault(format!("vCPU {}: {other:?}", event.id)));
            Ok(())
        }
    };
    if let Err(error) = done {
        // What the guest asked for cannot be had: it must not go on as if it had never asked.
        machine.orchestrator.stop(Cause::Fault(error.to_string()));
    }
    ""
}

/// Lets the vCPU that made `event` go on.
fn release(machine: &Machine, event: &VcpuEvent) -> Result<(), Error> {
    machine.vcpus.release(event).map_err(|cause| Error::Component {
        verb: Verb::Resume,
        name: "vcpus".into(),
        cause: ComponentError::new(cause),
    })
}

fn press_power_button(machine: &Machine) -> Result<(), RequestError> {
    match machine.orchestrator.state() {
        State::Running => {
            machine.press_power_button();
            Ok(())
        }
        state => Err(RequestError::NotRunning(state)),
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
