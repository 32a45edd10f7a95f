use crate::{
    Cause, Error, Event, EventSink, OnPanic, OnReset, OnTripleFault, Policy, State, StateReader, Verb,
};
use drystone_bus::Effect;
use drystone_state::{Component, ComponentError};
use std::sync::Arc;

mod save;

pub use save::SavedPart;

/// When a component is paused: stages in this order, and within a stage in the order of registration. Resuming and
/// resetting go the other way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// What asks for work: virtual CPUs.
    Vcpus,
    /// What does it: devices and their workers, also those that come while the machine runs.
    Devices,
    /// What carries their interrupts: interrupt controllers, and whatever else is in the hypervisor and not in a virtual CPU.
    Controllers,
    /// What devices stand on: RAM and the kernel in it, disks, taps, consoles.
    Backends,
}

/// What becomes of the virtual CPU that made an effect and waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a virtual CPU that may go on waits until somebody lets it"]
pub enum Verdict {
    /// Nothing: it has been reset, or is not to run on.
    Hold,
    /// It may go on, at once or when the machine is resumed.
    Release,
}

struct Part {
    stage: Stage,
    name: String,
    component: Arc<dyn Component>,
}

/// Leads all components of one machine through its life, in the right order.
///
/// One thread owns it. Others ask that thread, and read the state through a [`StateReader`].
///
/// A failing component never leaves the machine half-way without a word: if one cannot pause, those before it are resumed again
/// (and the other way round), and the error names it. If not even that works the error is [`Error::Stuck`]. If one
/// cannot be reset, the machine is stopped, as it is neither the old nor the new.
pub struct Orchestrator {
    /// In the order of pausing.
    parts: Vec<Part>,
    policy: Policy,
    sink: EventSink,
    reader: StateReader,
    /// A failed step could not be undone.
    stuck: bool,
    /// The guest was asked to end by itself.
    shutdown_asked: bool,
}

impl Orchestrator {
    /// A machine without components, in [`State::Built`].
    pub fn new(policy: Policy, sink: EventSink) -> Self {
        Self {
            parts: Vec::new(),
            policy,
            sink,
            reader: StateReader::new(),
            stuck: false,
            shutdown_asked: false,
        }
    }

    /// Takes a freshly built component, which does nothing until it is resumed. If the machine runs, that is done
    /// here.
    ///
    /// # Errors
    /// [`Error::Duplicate`] for a name that is taken; [`Error::Component`] if it cannot be resumed. It is not added then.
    pub fn add(
        &mut self,
        stage: Stage,
        name: impl Into<String>,
        component: Arc<dyn Component>,
    ) -> Result<(), Error> {
        let name = name.into();
        if self.parts.iter().any(|p| p.name == name) {
            return Err(Error::Duplicate(name));
        }
        if self.state() == State::Running {
            component.resume().map_err(|cause| Error::Component {
                verb: Verb::Resume,
                name: name.clone(),
                cause,
            })?;
        }
        let at = self.parts.partition_point(|p| p.stage <= stage);
        self.parts.insert(at, Part { stage, name, component });
        Ok(())
    }

    /// Takes a component out: it is paused, resumed and reset no more. It is left as it is; whoever takes it out has made it
    /// stand still, or does so next. `None` if there is none of that name.
    pub fn remove(&mut self, name: &str) -> Option<Arc<dyn Component>> {
        let at = self.parts.iter().position(|p| p.name == name)?;
        Some(self.parts.remove(at).component)
    }

    /// Where the machine is.
    pub fn state(&self) -> State {
        self.reader.state()
    }

    /// A view of the state for other threads. It stays valid, and says `Stopped`, when the orchestrator is gone.
    pub fn reader(&self) -> StateReader {
        self.reader.clone()
    }

    /// The names of all components, in the order in which they are paused.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(|p| p.name.as_str())
    }

    /// Starts the guest.
    ///
    /// # Errors
    /// [`Error::Illegal`] unless `Built`. [`Error::Component`] or [`Error::Stuck`] if a component cannot start; the
    /// machine is still `Built`.
    pub fn boot(&mut self) -> Result<(), Error> {
        self.state().next(Verb::Boot)?;
        self.go(Verb::Boot, State::Running, Cause::Operator)
    }

    /// Makes everything stand still. Nothing happens if it does already.
    ///
    /// # Errors
    /// [`Error::Illegal`] unless `Running` or `Paused`; [`Error::Component`], [`Error::Stuck`].
    pub fn pause(&mut self) -> Result<(), Error> {
        self.pause_for(Cause::Operator)
    }

    /// As [`pause`](Self::pause), for another reason than an operator's wish.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub fn pause_for(&mut self, cause: Cause) -> Result<(), Error> {
        if self.state().next(Verb::Pause)?.is_some() || self.stuck {
            self.go(Verb::Pause, State::Paused, cause)?;
        }
        Ok(())
    }

    /// Goes on after a pause. Nothing happens if the machine runs.
    ///
    /// # Errors
    /// [`Error::Illegal`] unless `Running` or `Paused`; [`Error::Component`], [`Error::Stuck`].
    pub fn resume(&mut self) -> Result<(), Error> {
        if self.state().next(Verb::Resume)?.is_some() || self.stuck {
            self.go(Verb::Resume, State::Running, Cause::Operator)?;
        }
        Ok(())
    }

    /// Starts the guest again from the beginning, in place; a paused machine stays paused.
    ///
    /// # Errors
    /// [`Error::Illegal`] unless `Running` or `Paused`. [`Error::Component`] and [`Error::Stuck`]: if it was the pause that
    /// failed the machine runs on, if it was the reset it is stopped, if it was the resuming it is paused.
    pub fn reset(&mut self, cause: Cause) -> Result<(), Error> {
        let before = self.state();
        before.next(Verb::Reset)?;
        if before == State::Running || self.stuck {
            self.settle(Verb::Pause)?;
        }
        for part in self.parts.iter().rev() {
            if let Err(error) = part.component.reset() {
                let error = failed(Verb::Reset, part, error, &[]);
                self.end(Cause::Fault(error.to_string()));
                return Err(self.tell(error));
            }
        }
        self.reader.update(|s| s.resets += 1);
        (self.sink)(Event::Reset { cause });
        if before == State::Running
            && let Err(error) = self.settle(Verb::Resume)
        {
            self.enter(State::Paused, Cause::Fault(error.to_string()));
            return Err(error);
        }
        Ok(())
    }

    /// Ends the machine: everything is made to stand still, for good. What cannot is told to the event sink and does not
    /// keep the machine from ending. Nothing happens if it has ended; the first cause stays.
    pub fn stop(&mut self, cause: Cause) {
        // Legal everywhere; `None` if it is stopped already.
        if !matches!(self.state().next(Verb::Stop), Ok(Some(_))) {
            return;
        }
        if self.state() == State::Running || self.stuck {
            for part in &self.parts {
                if let Err(error) = part.component.pause() {
                    (self.sink)(Event::Error(failed(Verb::Stop, part, error, &[]).to_string()));
                }
            }
        }
        self.end(cause);
    }

    /// Does what a write of the guest asked of the machine, and says whether its virtual CPU may go on behind that write. On a
    /// machine that has stopped it means nothing more.
    ///
    /// # Errors
    /// As [`reset`](Self::reset).
    pub fn apply(&mut self, effect: Effect) -> Result<Verdict, Error> {
        if effect == Effect::None || self.state() == State::Stopped {
            return Ok(Verdict::Hold);
        }
        (self.sink)(Event::Effect(effect));
        match effect {
            Effect::PowerOff | Effect::Reset if self.shutdown_asked => self.stop(Cause::Shutdown),
            Effect::PowerOff => self.stop(Cause::GuestPowerOff),
            Effect::Reset => match self.policy.on_reset {
                OnReset::Reset => self.reset(Cause::GuestReset)?,
                OnReset::Stop => self.stop(Cause::GuestReset),
            },
            Effect::Panic => match self.policy.on_panic {
                OnPanic::Stop => self.stop(Cause::GuestPanic),
                OnPanic::Reset => self.reset(Cause::GuestPanic)?,
                OnPanic::Pause => {
                    self.pause_for(Cause::GuestPanic)?;
                    return Ok(Verdict::Release);
                }
            },
            Effect::CrashLoaded => return Ok(Verdict::Release),
            // An effect that is newer than this crate: going on as if it had not been asked for could harm the guest.
            other => self.stop(Cause::Fault(format!("no answer to the guest's request {other:?}"))),
        }
        Ok(Verdict::Hold)
    }

    /// Says whether the guest has been asked to end by itself: if so, its power-off is that end, and so is its reset, with which
    /// a guest may answer Ctrl-Alt-Del, whatever the policy says.
    pub fn expect_shutdown(&mut self, asked: bool) {
        self.shutdown_asked = asked;
    }

    /// Does what the policy says about a triple fault. On a machine that has stopped it means nothing more.
    ///
    /// # Errors
    /// As [`reset`](Self::reset).
    pub fn triple_fault(&mut self) -> Result<(), Error> {
        if self.state() == State::Stopped {
            return Ok(());
        }
        match self.policy.on_triple_fault {
            OnTripleFault::Stop => self.stop(Cause::TripleFault),
            OnTripleFault::Reset => self.reset(Cause::TripleFault)?,
        }
        Ok(())
    }

    /// Whether a step failed and could not be undone, as [`Error::Stuck`] said, and no later one has put that right. A
    /// machine that is stuck must not be saved, whatever its state is called.
    pub fn is_stuck(&self) -> bool {
        self.stuck
    }

    fn go(&mut self, verb: Verb, to: State, cause: Cause) -> Result<(), Error> {
        self.settle(verb)?;
        self.enter(to, cause);
        Ok(())
    }

    /// Pauses or resumes all components, or none.
    fn settle(&mut self, verb: Verb) -> Result<(), Error> {
        let outcome = if verb == Verb::Pause {
            all_or_none(verb, self.parts.iter(), pause, resume)
        } else {
            all_or_none(verb, self.parts.iter().rev(), resume, pause)
        };
        match outcome {
            Ok(()) => self.stuck = false,
            Err(error) => {
                // Undoing brings back this state; on a stuck machine it may not have been where all parts were.
                self.stuck |= matches!(error, Error::Stuck { .. });
                return Err(self.tell(error));
            }
        }
        Ok(())
    }

    fn tell(&self, error: Error) -> Error {
        (self.sink)(Event::Error(error.to_string()));
        error
    }

    fn enter(&mut self, to: State, cause: Cause) {
        let from = self.state();
        if from == to {
            return;
        }
        self.reader.update(|s| {
            s.state = to;
            s.end = (to == State::Stopped).then(|| cause.clone());
        });
        (self.sink)(Event::State { from, to, cause });
    }

    fn end(&mut self, cause: Cause) {
        self.stuck = false;
        self.enter(State::Stopped, cause);
    }
}

impl Drop for Orchestrator {
    /// Stops the machine, so that no component runs on and nobody waits for its end in vain.
    fn drop(&mut self) {
        self.stop(Cause::Operator);
    }
}

type Step = fn(&Part) -> Result<(), ComponentError>;

fn pause(part: &Part) -> Result<(), ComponentError> {
    part.component.pause()
}

fn resume(part: &Part) -> Result<(), ComponentError> {
    part.component.resume()
}

/// Takes `step` on all parts in order. If one fails, takes `undo` on those before it, last first.
fn all_or_none<'a>(
    verb: Verb,
    parts: impl Iterator<Item = &'a Part>,
    step: Step,
    undo: Step,
) -> Result<(), Error> {
    let mut done: Vec<&Part> = Vec::new();
    for part in parts {
        if let Err(cause) = step(part) {
            let undone = done.iter().rev().filter_map(|p| Some((p.name.as_str(), undo(p).err()?)));
            let undone: Vec<_> = undone.collect();
            return Err(failed(verb, part, cause, &undone));
        }
        done.push(part);
    }
    Ok(())
}

fn failed(verb: Verb, part: &Part, cause: ComponentError, undone: &[(&str, ComponentError)]) -> Error {
    let name = part.name.clone();
    if undone.is_empty() {
        return Error::Component { verb, name, cause };
    }
    let undo: Vec<_> = undone.iter().map(|(name, cause)| format!("{name}: {cause}")).collect();
    Error::Stuck { verb, name, cause, undo: undo.join(", ") }
}

#[cfg(test)]
mod tests;
