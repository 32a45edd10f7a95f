use std::fmt;

/// Where in its life a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// All parts are made, no instruction of the guest has run.
    Built,
    /// vCPUs run, devices work.
    Running,
    /// Nothing moves; the state may be read.
    Paused,
    /// It is over: nothing but its remains can be looked at.
    Stopped,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Built, Self::Running, Self::Paused, Self::Stopped];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Built => "built",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// What can be asked of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Start the guest for the first time.
    Boot,
    /// Stop all activity for a while.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Begin anew, as after the reset button: a paused machine stays paused.
    Reset,
    /// End, now.
    Stop,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Boot, Self::Pause, Self::Resume, Self::Reset, Self::Stop];
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boot => "boot",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Reset => "reset",
            Self::Stop => "stop",
        })
    }
}

/// A verb that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot {verb} a machine that is {state}")]
pub struct IllegalTransition {
    /// Where the machine is, and stays.
    pub state: State,
    /// What was asked.
    pub verb: Verb,
}

/// The state after `verb` in `state`: the whole table.
///
/// Pausing what is paused, resuming what runs and stopping what is stopped succeed and change nothing: an operator who
/// asks for a state gets it, and asking twice is no mistake.
///
/// # Errors
/// [`IllegalTransition`] for everything that is not in the table.
pub const fn transition(state: State, verb: Verb) -> Result<State, IllegalTransition> {
    use State::*;
    Ok(match (state, verb) {
        (Built, Verb::Boot) => Running,
        (Running | Paused, Verb::Pause) => Paused,
        (Running | Paused, Verb::Resume) => Running,
        (Running | Paused, Verb::Reset) => state,
        (Built | Running | Paused | Stopped, Verb::Stop) => Stopped,
        _ => return Err(IllegalTransition { state, verb }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_this_and_nothing_else() {
        use State::*;
        // Rows: Built, Running, Paused, Stopped. Columns: boot, pause, resume, reset, stop.
        let table = [
            [Some(Running), None, None, None, Some(Stopped)],
            [None, Some(Paused), Some(Running), Some(Running), Some(Stopped)],
            [None, Some(Paused), Some(Running), Some(Paused), Some(Stopped)],
            [None, None, None, None, Some(Stopped)],
        ];
        for (state, row) in State::ALL.into_iter().zip(table) {
            for (verb, expected) in Verb::ALL.into_iter().zip(row) {
                assert_eq!(transition(state, verb).ok(), expected, "{verb} when {state}");
            }
        }
    }

    #[test]
    fn a_refusal_says_what_and_why() {
        let error = transition(State::Stopped, Verb::Resume).unwrap_err();
        assert_eq!(error.to_string(), "cannot resume a machine that is stopped");
    }
}
