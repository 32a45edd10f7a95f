use crate::{IllegalTransition, Verb};
use drystone_state::ComponentError;

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
}
