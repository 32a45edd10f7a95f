//! The thread that owns a machine. Everything that wants something of it is a message: the control socket, signals, the
//! console's escape key, and what happens on vCPUs.

use crate::machine::Machine;
use drystone_hypervisor::RunError;
use drystone_lifecycle::{Cause, LifecycleError, Outcome, State, Verb};
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
    Lifecycle(#[from] LifecycleError),
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
    pub hint: String,
}

impl From<Cause> for End {
    fn from(cause: Cause) -> Self {
        Self { cause, hint: String::new() }
    }
}

impl Mailbox {
    /// Boots `machine` and serves it until it ends. When this returns, no vCPU runs any more.
    ///
    /// # Errors
    /// [`LifecycleError`] when it cannot be booted.
    pub fn serve(self, mut machine: Machine) -> Result<End, LifecycleError> {
        machine.orchestrator.act(Verb::Boot)?;
        // Every sender gone means that nobody can ask for anything, not even for an end: so does this thread's own.
        let mut end = None;
        while end.is_none() {
            end = match self.0.recv() {
                Ok(message) => handle(&mut machine, message),
                Err(_) => Some(Cause::Operator.into()),
            };
        }
        // A machine that does not pause (a device that hangs) is ended all the same: its threads go with the process.
        let end = end.unwrap_or_else(|| Cause::Operator.into());
        let _ = machine.orchestrator.end(end.cause.clone());
        machine.vcpus.stop();
        Ok(end)
    }
}

/// Some(_) when the machine has ended, or must.
fn handle(machine: &mut Machine, message: Message) -> Option<End> {
    match message {
        Message::End(cause) => Some(cause.into()),
        Message::Vcpu(event) if !machine.vcpus.is_current(&event) => None,
        Message::Vcpu(event) => {
            let outcome = match event.kind {
                VcpuEventKind::Effect(effect) => {
                    let cause = crate::machine::cause_of(effect);
                    machine.orchestrator.apply(effect).map(|outcome| (outcome, cause))
                }
                VcpuEventKind::TripleFault => {
                    machine.orchestrator.triple_fault().map(|outcome| (outcome, Cause::TripleFault))
                }
                VcpuEventKind::Halted => Ok((Outcome::Ended, Cause::Halted)),
                VcpuEventKind::Fault(error) => return Some(fault(&error)),
                other => return Some(Cause::Fault(format!("vCPU {}: {other:?}", event.id)).into()),
            };
            match outcome {
                Ok((Outcome::Continues, _)) => None,
                Ok((Outcome::Ended, cause)) => Some(cause.into()),
                Err(error) => Some(Cause::Fault(error.to_string()).into()),
            }
        }
        Message::Request(request, answer) => {
            let result = match request {
                Request::Life(verb) => machine.orchestrator.act(verb).map_err(RequestError::from),
                Request::PowerButton => press_power_button(machine),
            };
            let ended = machine.orchestrator.state() == State::Stopped;
            // Whoever asked may have gone away meanwhile.
            let _ = answer.send(result.map(|()| machine.orchestrator.state()));
            ended.then(|| Cause::Operator.into())
        }
    }
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

fn fault(error: &RunError) -> End {
    let hint = match error {
        RunError::Emulation { .. } => {
            "this host's KVM interprets the guest's kernel in software and lacks that instruction; a machine with \
             hardware virtualisation runs it, and so does the lab: `cargo boot`, `cargo lab`"
        }
        _ => "",
    };
    End { cause: Cause::Fault(error.to_string()), hint: hint.into() }
}
