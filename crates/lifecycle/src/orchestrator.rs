use crate::{Cause, Event, EventSink, IllegalTransition, State, Verb, transition};
use drystone_bus::Effect;
use drystone_state::{Component, ComponentError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// When a part is paused; resumed and reset in the opposite order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// First: nothing can ask a device for anything any more.
    Vcpus,
    /// Devices and their workers finish what is in flight.
    Devices,
    /// Last: RAM, interrupt controllers, files, sockets; nobody uses them by now.
    Backends,
}

/// A component with its place and its name in messages.
#[derive(Clone)]
pub struct Part {
    /// Its place in the order.
    pub stage: Stage,
    /// Unique in the machine, for example `serial0`.
    pub name: String,
    /// The component.
    pub component: Arc<dyn Component>,
}

/// What becomes of a machine whose guest asks for a reset, or can do nothing more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ResetPolicy {
    /// Reset it in place.
    #[default]
    Reset,
    /// Stop it.
    Stop,
}

/// Answers to what a guest does to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policy {
    /// The guest asks for a reset.
    pub on_reset: ResetPolicy,
    /// A vCPU meets a triple fault, which on real hardware resets the machine.
    pub on_triple_fault: ResetPolicy,
}

impl Default for Policy {
    /// Reset on request; stop on a triple fault, which would most likely come again.
    fn default() -> Self {
        Self { on_reset: ResetPolicy::Reset, on_triple_fault: ResetPolicy::Stop }
    }
}

impl Policy {
    /// Both answers.
    pub fn new(on_reset: ResetPolicy, on_triple_fault: ResetPolicy) -> Self {
        Self { on_reset, on_triple_fault }
    }
}

/// What handling an effect came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The machine goes on.
    Continues,
    /// It has stopped.
    Ended,
}

/// Why a machine did not follow.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LifecycleError {
    /// Not from where it is.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// A part failed.
    #[error("cannot {verb} {part}: {cause}")]
    Part {
        /// What was asked.
        verb: Verb,
        /// Of which part.
        part: String,
        /// What it said.
        cause: ComponentError,
    },
}

/// The state of a machine, readable from any thread while the orchestrator works.
#[derive(Clone)]
pub struct StateReader(Arc<AtomicU8>);

impl StateReader {
    /// The state of this moment. During a transition it is the one that the machine comes from.
    pub fn get(&self) -> State {
        let index = usize::from(self.0.load(Ordering::Acquire));
        State::ALL.get(index).copied().unwrap_or(State::Stopped)
    }
    fn set(&self, state: State) {
        let index = State::ALL.iter().position(|s| *s == state).unwrap_or(0);
        self.0.store(u8::try_from(index).unwrap_or(0), Ordering::Release);
    }
}

/// Takes a machine's parts through its life, in the right order.
pub struct Orchestrator {
    /// Sorted by stage; in the order of registration within one.
    parts: Vec<Part>,
    state: StateReader,
    policy: Policy,
    events: EventSink,
}

impl Orchestrator {
    /// A machine of these parts, which have just been built and are at rest.
    pub fn new(mut parts: Vec<Part>, policy: Policy, events: EventSink) -> Self {
        parts.sort_by_key(|p| p.stage);
        let state = StateReader(Arc::default());
        state.set(State::Built);
        Self { parts, state, policy, events }
    }

    /// A reader for other threads.
    pub fn state_reader(&self) -> StateReader {
        self.state.clone()
    }

    /// Where the machine is.
    pub fn state(&self) -> State {
        self.state.get()
    }

    /// The names of the parts that cannot be saved; if there are any, the machine cannot be.
    pub fn unsavable(&self) -> Vec<&str> {
        self.parts.iter().filter(|p| p.component.persist().is_none()).map(|p| p.name.as_str()).collect()
    }

    /// Does what an operator asks.
    ///
    /// # Errors
    /// [`LifecycleError::Illegal`] when the state does not allow it. [`LifecycleError::Part`] when a part does not follow:
    /// after a failed pause, those already paused have been resumed and the machine runs; after a failed boot, resume or
    /// reset it is paused.
    pub fn act(&mut self, verb: Verb) -> Result<(), LifecycleError> {
        self.act_because(verb, Cause::Operator)
    }

    /// Applies what a guest's write asked for.
    ///
    /// # Errors
    /// As [`act`](Self::act).
    pub fn apply(&mut self, effect: Effect) -> Result<Outcome, LifecycleError> {
        match effect {
            Effect::PowerOff => self.end(Cause::GuestPowerOff),
            Effect::Reset => self.reset_or_stop(self.policy.on_reset, Cause::GuestReset),
            _ => Ok(Outcome::Continues),
        }
    }

    /// A vCPU met a triple fault.
    ///
    /// # Errors
    /// As [`act`](Self::act).
    pub fn triple_fault(&mut self) -> Result<Outcome, LifecycleError> {
        self.reset_or_stop(self.policy.on_triple_fault, Cause::TripleFault)
    }

    /// Stops the machine for a cause that leaves no choice.
    ///
    /// # Errors
    /// As [`act`](Self::act).
    pub fn end(&mut self, cause: Cause) -> Result<Outcome, LifecycleError> {
        self.act_because(Verb::Stop, cause)?;
        Ok(Outcome::Ended)
    }

    fn reset_or_stop(&mut self, policy: ResetPolicy, cause: Cause) -> Result<Outcome, LifecycleError> {
        match policy {
            ResetPolicy::Stop => self.end(cause),
            ResetPolicy::Reset => {
                self.act_because(Verb::Reset, cause)?;
                Ok(Outcome::Continues)
            }
        }
    }

    fn act_because(&mut self, verb: Verb, cause: Cause) -> Result<(), LifecycleError> {
        let from = self.state();
        let to = transition(from, verb)?;
        let done = match verb {
            _ if from == to && verb != Verb::Reset => return Ok(()),
            Verb::Boot | Verb::Resume => self.resume_all(verb),
            Verb::Pause => self.pause_all(),
            Verb::Reset => self.reset_all(from),
            // A part that does not pause does not keep the machine from ending: its parts are dropped next.
            Verb::Stop if from == State::Running => self.pause_all().or(Ok(())),
            Verb::Stop => Ok(()),
        };
        let settled = match (&done, verb) {
            (Ok(()), _) => to,
            // It could not be paused, for itself or for a reset, so it runs on.
            (Err(LifecycleError::Part { verb: Verb::Pause, .. }), _) => from,
            (Err(_), _) => State::Paused,
        };
        if let Err(error) = &done {
            (self.events)(&Event::Failed { what: error.to_string() });
        }
        if done.is_ok() && verb == Verb::Reset {
            (self.events)(&Event::Reset { cause: cause.clone() });
        }
        if settled != from {
            self.state.set(settled);
            let cause = match &done {
                Ok(()) => cause,
                Err(error) => Cause::Fault(error.to_string()),
            };
            (self.events)(&Event::State { from, to: settled, cause });
        }
        done
    }

    /// First to last; what is already paused when one fails is resumed again.
    fn pause_all(&self) -> Result<(), LifecycleError> {
        for (index, part) in self.parts.iter().enumerate() {
            if let Err(cause) = part.component.pause() {
                for paused in self.parts.iter().take(index).rev() {
                    if let Err(cause) = paused.component.resume() {
                        let what = format!("cannot resume {} again: {cause}", paused.name);
                        (self.events)(&Event::Failed { what });
                    }
                }
                let verb = Verb::Pause;
                return Err(LifecycleError::Part { verb, part: part.name.clone(), cause });
            }
        }
        Ok(())
    }

    /// Last to first; what is already resumed when one fails is paused again.
    fn resume_all(&self, verb: Verb) -> Result<(), LifecycleError> {
        for (index, part) in self.parts.iter().enumerate().rev() {
            if let Err(cause) = part.component.resume() {
                for resumed in self.parts.iter().skip(index + 1) {
                    if let Err(cause) = resumed.component.pause() {
                        let what = format!("cannot pause {} again: {cause}", resumed.name);
                        (self.events)(&Event::Failed { what });
                    }
                }
                return Err(LifecycleError::Part { verb, part: part.name.clone(), cause });
            }
        }
        Ok(())
    }

    /// Back ends first: RAM is wiped and loaded before vCPUs point into it.
    fn reset_all(&self, from: State) -> Result<(), LifecycleError> {
        if from == State::Running {
            self.pause_all()?;
        }
        for part in self.parts.iter().rev() {
            part.component.reset().map_err(|cause| LifecycleError::Part {
                verb: Verb::Reset,
                part: part.name.clone(),
                cause,
            })?;
        }
        if from == State::Running { self.resume_all(Verb::Reset) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
