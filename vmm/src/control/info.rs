use crate::events::CauseKind;
use drystone_vcpu::msr::MsrCount;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What is known of a running machine: the answer to `GET /v1/vm`.
///
/// A client ignores fields that it does not know: later versions may say more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Its name.
    pub id: String,
    /// Its process.
    pub pid: u32,
    /// Where it is in its life.
    pub state: VmState,
    /// How many virtual CPUs it has.
    pub cpus: u32,
    /// Guest RAM in bytes.
    pub memory_bytes: u64,
    /// Time since it was started, pauses included, in milliseconds.
    pub uptime_ms: u64,
    /// Version of the `drystone` that runs it.
    pub version: String,
    /// The kernel that it runs: a path, or `(built in)`.
    #[serde(default)]
    pub kernel: String,
    /// The protocol by which the kernel was entered: `linux` or `pvh`.
    #[serde(default)]
    pub boot_protocol: String,
    /// How often the guest was reset.
    #[serde(default)]
    pub resets: u64,
    /// Why it ended, once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<CauseKind>,
    /// Exits from the guest by kind, since the start.
    #[serde(default)]
    pub exits: BTreeMap<String, u64>,
    /// How long the guest waited for the answers to its accesses: by kind of exit, how often it was less than so many
    /// nanoseconds, and not less than half as many.
    #[serde(default)]
    pub exit_latency: BTreeMap<String, BTreeMap<u64, u64>>,
    /// How often the guest met the rules for model-specific registers; rules that it never met are left out.
    #[serde(default)]
    pub msrs: Vec<MsrCount>,
    /// How far the snapshot is that is just being written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotProgress>,
}

/// How far a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotProgress {
    /// Bytes of guest memory that are written.
    pub done: u64,
    /// Of how many; 0 before that is known.
    pub total: u64,
}

/// Where a machine is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum VmState {
    /// Its parts are there or being made; the guest has not run.
    Built,
    /// The guest runs.
    Running,
    /// The guest stands still.
    Paused,
    /// The guest has ended.
    Stopped,
    /// A state that a later version knows.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Built => "built",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Unknown => "unknown",
        })
    }
}

impl From<drystone_lifecycle::State> for VmState {
    fn from(state: drystone_lifecycle::State) -> Self {
        match state {
            drystone_lifecycle::State::Built => Self::Built,
            drystone_lifecycle::State::Running => Self::Running,
            drystone_lifecycle::State::Paused => Self::Paused,
            drystone_lifecycle::State::Stopped => Self::Stopped,
        }
    }
}
