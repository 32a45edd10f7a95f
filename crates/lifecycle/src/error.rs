use crate::{IllegalTransition, Verb};
use drystone_state::{ComponentError, RestoreError, SaveError};

/// Why a machine did not do what it was asked to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not in this state.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// A part failed, and the others are again as they were before.
    #[error("cannot {verb}: {name}: {cause}")]
    Component {
        /// What the part was asked to do.
        verb: Verb,
        /// The part's name.
        name: String,
        /// What it said.
        cause: ComponentError,
    },
    /// A part failed, and others could not be brought back to where they were before. The machine keeps its state's name, is
    /// partly in the next, and cannot be saved; both pausing and resuming may be tried again, and it can be stopped.
    #[error("cannot {verb}: {name}: {cause}; and cannot undo it: {undo}")]
    Stuck {
        /// What the part was asked to do.
        verb: Verb,
        /// The part's name.
        name: String,
        /// What it said.
        cause: ComponentError,
        /// Which parts could not be brought back, and what they said.
        undo: String,
    },
    /// Two parts of the same name.
    #[error("the machine has a part named {0} already")]
    Duplicate(String),
    /// Parts that cannot be saved at all. Nothing was touched.
    #[error("cannot save: {} cannot be saved", .0.join(", "))]
    Unsavable(Vec<String>),
    /// A part failed in the middle of an earlier step, so that not everything stands still.
    #[error("cannot save: a part could not be paused, so not everything stands still")]
    NotStill,
    /// A part could not give its state. The machine is as it was.
    #[error("{name}: {cause}")]
    Save {
        /// The part's name.
        name: String,
        /// What it said.
        cause: SaveError,
    },
    /// The saved state is of a machine with other parts. Nothing was touched.
    #[error("cannot restore: the saved state is of another machine{}", differences(.missing, .unknown))]
    OtherParts {
        /// This machine's parts of which the state says nothing.
        missing: Vec<String>,
        /// Parts of the state that this machine does not have.
        unknown: Vec<String>,
    },
    /// A part refused its state, and the machine has ended.
    #[error("cannot restore: {name}: {cause}")]
    Restore {
        /// The part's name.
        name: String,
        /// What it said.
        cause: RestoreError,
    },
}

fn differences(missing: &[String], unknown: &[String]) -> String {
    let part = |what, names: &[String]| match names {
        [] => String::new(),
        names => format!("; {what} {}", names.join(", ")),
    };
    part("it lacks", missing) + &part("this one lacks", unknown)
}
