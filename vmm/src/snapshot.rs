//! Writing a running machine down, and bringing one back.

mod restore;

pub use drystone_chipset::Identity;
pub use drystone_hypervisor::Clocks;
pub use restore::{Restore, RestoreConfig, RestoreConfigError, RestoreOptions};

use drystone_snapshot::{Progress, WriteError};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

/// What is wanted of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRequest {
    /// The directory that it becomes.
    pub dir: PathBuf,
    /// The directory for guest memory, if that is to lie elsewhere.
    pub memory_dir: Option<PathBuf>,
    /// What the machine does when it is written.
    pub then: Then,
}

/// What a machine does after its snapshot was written. If it could not be, it goes on as it was in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// Goes on, or stays paused, as it was before.
    #[default]
    GoOn,
    /// Stands still.
    Pause,
    /// Ends: it is to be continued from the snapshot.
    Stop,
}

/// Why a machine was not written down.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// It could not be paused, or a part could not be saved.
    #[error(transparent)]
    Lifecycle(#[from] drystone_lifecycle::Error),
    /// Something that it stands on cannot be looked at.
    #[error("disk `{name}` at {}: cannot look at it: {cause}", path.display())]
    Outside {
        /// Its name.
        name: String,
        /// Where it is.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
    /// Something has no encoded form.
    #[error("cannot encode the machine: {0}")]
    Encode(String),
    /// It could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// The snapshot that is just being written, for whoever wants to see how far it is, or to cancel it. Clones see the same.
#[derive(Clone, Default)]
pub struct Current(Arc<Mutex<Option<Arc<Progress>>>>);

impl Current {
    /// How many bytes of memory are written, and of how many; `None` if no snapshot is being written.
    pub fn bytes(&self) -> Option<(u64, u64)> {
        self.lock().as_ref().map(|progress| progress.bytes())
    }

    /// Cancels it; says whether there was one.
    pub fn cancel(&self) -> bool {
        self.lock().as_ref().map(|progress| progress.cancel()).is_some()
    }

    /// Calls `work` with the progress that others see meanwhile.
    pub(crate) fn during<T>(&self, work: impl FnOnce(&Progress) -> T) -> T {
        let progress = Arc::<Progress>::default();
        *self.lock() = Some(progress.clone());
        let done = work(&progress);
        *self.lock() = None;
        done
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Progress>>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}
