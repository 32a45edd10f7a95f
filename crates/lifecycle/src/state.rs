use std::fmt;

/// Where a machine is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// All its parts exist; no instruction of the guest has run.
    Built,
    /// The guest runs.
    Running,
    /// Everything stands still and may be saved.
    Paused,
    /// The end. The guest never runs again.
    Stopped,
}

/// What can be asked of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Start the guest for the first time.
    Boot,
    /// Make everything stand still.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Start again from the beginning, in place.
    Reset,
    /// Write down the state of every part.
    Save,
    /// Take over what was saved of another machine, instead of booting.
    Restore,
    /// End.
    Stop,
}

/// What a verb means in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// It is done, and leads to this state; for [`Verb::Reset`] and [`Verb::Save`] that is the same state again.
    To(State),
    /// It is so already: success, and nothing happens.
    Already,
    /// It makes no sense there.
    Illegal,
}

/// Every verb in every state.
///
/// To pause what is paused, resume what runs and stop what is stopped succeeds and does nothing: whoever asks gets
/// what he asked for, and two operators, or one whose first answer was lost, do not fail on each other. To boot twice,
/// or to pause or reset what was never booted, is a mistake about what the machine is, and is refused. Only what stands still
/// can be saved, and only a machine in which nothing has happened can take over what was.
pub const TRANSITIONS: &[(State, [(Verb, Transition); 7])] = {
    use State::{Built, Paused, Running, Stopped};
    use Transition::{Already, Illegal, To};
    use Verb::{Boot, Pause, Reset, Restore, Resume, Save, Stop};
    #[rustfmt::skip]
    const TABLE: &[(State, [(Verb, Transition); 7])] = &[
        (Built,   [(Boot, To(Running)), (Pause, Illegal),    (Resume, Illegal),     (Reset, Illegal),     (Save, Illegal),     (Restore, To(Paused)),  (Stop, To(Stopped))]),
        (Running, [(Boot, Illegal),     (Pause, To(Paused)), (Resume, Already),     (Reset, To(Running)), (Save, Illegal),     (Restore, Illegal),     (Stop, To(Stopped))]),
        (Paused,  [(Boot, Illegal),     (Pause, Already),    (Resume, To(Running)), (Reset, To(Paused)),  (Save, To(Paused)),  (Restore, Illegal),     (Stop, To(Stopped))]),
        (Stopped, [(Boot, Illegal),     (Pause, Illegal),    (Resume, Illegal),     (Reset, Illegal),     (Save, Illegal),     (Restore, Illegal),     (Stop, Already)]),
    ];
    TABLE
};

/// A verb that makes no sense in the machine's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot {verb} a machine that is {state}")]
pub struct IllegalTransition {
    /// Where the machine is.
    pub state: State,
    /// What was asked.
    pub verb: Verb,
}

impl State {
    /// What `verb` means here, from [`TRANSITIONS`]: the next state, or `None` if it is so already.
    ///
    /// # Errors
    /// [`IllegalTransition`] where it makes no sense.
    pub fn next(self, verb: Verb) -> Result<Option<State>, IllegalTransition> {
        let row = TRANSITIONS.iter().find(|(state, _)| *state == self);
        let cell = row.and_then(|(_, row)| row.iter().find(|(v, _)| *v == verb));
        match cell {
            Some((_, Transition::To(state))) => Ok(Some(*state)),
            Some((_, Transition::Already)) => Ok(None),
            Some((_, Transition::Illegal)) | None => Err(IllegalTransition { state: self, verb }),
        }
    }
}

impl fmt::Display for State {
    /// One word: `built`, `running`, `paused`, `stopped`. (With [`IllegalTransition`] it reads as a sentence.)
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Built => "built",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

impl fmt::Display for Verb {
    /// The command's word.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boot => "boot",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Reset => "reset",
            Self::Save => "save",
            Self::Restore => "restore",
            Self::Stop => "stop",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [State; 4] = [State::Built, State::Running, State::Paused, State::Stopped];
    const VERBS: [Verb; 7] =
        [Verb::Boot, Verb::Pause, Verb::Resume, Verb::Reset, Verb::Save, Verb::Restore, Verb::Stop];

    #[test]
    fn the_table_answers_for_every_pair_once() {
        for state in STATES {
            for verb in VERBS {
                let cells = TRANSITIONS.iter().filter(|(s, _)| *s == state).flat_map(|(_, row)| row);
                assert_eq!(cells.filter(|(v, _)| *v == verb).count(), 1, "{state} {verb}");
            }
        }
        assert_eq!(TRANSITIONS.len(), STATES.len());
    }

    #[test]
    fn nothing_leads_out_of_stopped_or_back_to_built() {
        for state in STATES {
            for verb in VERBS {
                let next = state.next(verb).ok().flatten();
                assert_ne!(next, Some(State::Built));
                assert!(state != State::Stopped || next.is_none(), "{verb}");
            }
            assert!(state.next(Verb::Stop).is_ok(), "every machine can be stopped");
            let reset = state.next(Verb::Reset).unwrap_or(Some(state));
            assert_eq!(reset, Some(state), "a reset leads to where it began");
            let save = state.next(Verb::Save).unwrap_or(Some(state));
            assert_eq!(save, Some(state), "a save changes nothing");
        }
    }

    #[test]
    fn a_refusal_is_a_sentence() {
        let refused = State::Stopped.next(Verb::Resume).unwrap_err();
        assert_eq!(refused.to_string(), "cannot resume a machine that is stopped");
        let refused = State::Built.next(Verb::Pause).unwrap_err();
        assert_eq!(refused.to_string(), "cannot pause a machine that is built");
    }
}
