use super::{Action, Info};
use crate::events::History;
use drystone_observe::Snapshot;
use std::fmt;
use std::str::FromStr;

/// The names of what can be asked of a running machine; with its options it is an [`Action`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Make it stand still.
    Pause,
    /// Let it go on.
    Resume,
    /// Press its power button; what comes of that is the guest's business.
    Power,
    /// Type Ctrl-Alt-Del on its keyboard; what comes of that is the guest's business.
    CtrlAltDel,
    /// Send a non-maskable interrupt.
    Nmi,
    /// Start the guest again, in place.
    Reset,
    /// Write it down, to be restored.
    Snapshot,
    /// Give up the snapshot that is being written.
    CancelSnapshot,
    /// End it.
    Stop,
    /// Add a disk.
    DiskAdd,
    /// Take a disk away.
    DiskRemove,
    /// Tell the guest that a disk has another size.
    DiskResize,
    /// Limit a disk.
    DiskLimit,
    /// Add a network device.
    NetAdd,
    /// Take a network device away.
    NetRemove,
    /// Plug a network device's cable in, or pull it.
    NetLink,
    /// Limit a network device.
    NetLimit,
    /// Limit the entropy device.
    RngLimit,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Pause,
        Self::Resume,
        Self::Power,
        Self::CtrlAltDel,
        Self::Nmi,
        Self::Reset,
        Self::Snapshot,
        Self::CancelSnapshot,
        Self::Stop,
        Self::DiskAdd,
        Self::DiskRemove,
        Self::DiskResize,
        Self::DiskLimit,
        Self::NetAdd,
        Self::NetRemove,
        Self::NetLink,
        Self::NetLimit,
        Self::RngLimit,
    ];

    /// The word in a URL and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Power => "power",
            Self::CtrlAltDel => "ctrl-alt-del",
            Self::Nmi => "nmi",
            Self::Reset => "reset",
            Self::Snapshot => "snapshot",
            Self::CancelSnapshot => "cancel-snapshot",
            Self::Stop => "stop",
            Self::DiskAdd => "disk-add",
            Self::DiskRemove => "disk-remove",
            Self::DiskResize => "disk-resize",
            Self::DiskLimit => "disk-limit",
            Self::NetAdd => "net-add",
            Self::NetRemove => "net-remove",
            Self::NetLink => "net-link",
            Self::NetLimit => "net-limit",
            Self::RngLimit => "rng-limit",
        }
    }
}

impl FromStr for Verb {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|v| v.as_str() == word).ok_or(())
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a verb was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerbError {
    /// It makes no sense in the machine's state: answered with status 409.
    #[error("{0}")]
    Illegal(String),
    /// It was tried and failed: answered with status 500.
    #[error("{0}")]
    Failed(String),
}

/// A machine as the control socket sees it. Called from several threads at once.
pub trait Verbs: Send + Sync {
    /// What is known now. Does not wait for a verb that is being carried out.
    fn info(&self) -> Info;

    /// Counters and state of its devices by name, now. Nothing, for one that counts nothing.
    fn metrics(&self) -> Snapshot {
        Snapshot::default()
    }

    /// What has happened to it, and what will.
    fn history(&self) -> History;

    /// Carries out `action` and says how things are then. May take its time. An action that waits for the guest
    /// ([`Action::waits_for_guest`]) lets others be carried out meanwhile.
    ///
    /// # Errors
    /// [`VerbError::Illegal`] when it makes no sense now, [`VerbError::Failed`] when it did not work.
    fn act(&self, action: Action) -> Result<Info, VerbError>;
}
