use super::Verb;
use crate::snapshot::{SnapshotRequest, Then};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// How long a guest may take to shut down, unless it is said.
pub const DEFAULT_SHUTDOWN_TIME: Duration = Duration::from_secs(30);
/// The longest that can be waited for a guest: a day.
pub const MAX_SHUTDOWN_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// What is asked of a running machine: a [`Verb`] with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Make it stand still.
    Pause,
    /// Let it go on.
    Resume,
    /// Press its power button.
    Power,
    /// Type Ctrl-Alt-Del.
    CtrlAltDel,
    /// Send a non-maskable interrupt to the virtual CPU of that number, or to all.
    Nmi {
        /// Its number.
        cpu: Option<u32>,
    },
    /// Start the guest again, in place.
    Reset,
    /// End it at once, as if the plug were pulled.
    Stop,
    /// Ask the guest to shut down, and end it when it has not in that time.
    StopGracefully {
        /// How long it may take, at most [`MAX_SHUTDOWN_TIME`].
        timeout: Duration,
    },
    /// Write it down. Paths are the machine's, so they should be absolute.
    Snapshot(SnapshotRequest),
    /// Give up the snapshot that is being written.
    CancelSnapshot,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoOptions {}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NmiOptions {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cpu: Option<u32>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StopOptions {
    #[serde(default)]
    mode: StopMode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SnapshotOptions {
    #[serde(default)]
    dir: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    memory_dir: Option<PathBuf>,
    #[serde(default)]
    then: Then,
}

#[derive(Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StopMode {
    #[default]
    Now,
    Graceful,
}

impl Action {
    /// `verb` with the options in `body`: a JSON object, or nothing.
    ///
    /// # Errors
    /// What is wrong with the body, in one line.
    pub fn parse(verb: Verb, body: &[u8]) -> Result<Self, String> {
        let plain = |action: Self| options::<NoOptions>(body).map(|NoOptions {}| action);
        match verb {
            Verb::Pause => plain(Self::Pause),
            Verb::Resume => plain(Self::Resume),
            Verb::Power => plain(Self::Power),
            Verb::CtrlAltDel => plain(Self::CtrlAltDel),
            Verb::Reset => plain(Self::Reset),
            Verb::Nmi => options(body).map(|NmiOptions { cpu }| Self::Nmi { cpu }),
            Verb::CancelSnapshot => plain(Self::CancelSnapshot),
            Verb::Snapshot => snapshot(options(body)?),
            Verb::Stop => stop(options(body)?),
        }
    }

    /// Its verb.
    pub fn verb(&self) -> Verb {
        match self {
            Self::Pause => Verb::Pause,
            Self::Resume => Verb::Resume,
            Self::Power => Verb::Power,
            Self::CtrlAltDel => Verb::CtrlAltDel,
            Self::Nmi { .. } => Verb::Nmi,
            Self::Reset => Verb::Reset,
            Self::Snapshot(_) => Verb::Snapshot,
            Self::CancelSnapshot => Verb::CancelSnapshot,
            Self::Stop | Self::StopGracefully { .. } => Verb::Stop,
        }
    }

    /// Whether it is done only when the guest has done something.
    pub fn waits_for_guest(&self) -> bool {
        matches!(self, Self::StopGracefully { .. })
    }

    /// Whether it is done while others are being carried out, because it waits for the guest or ends what another waits for.
    pub fn takes_no_turn(&self) -> bool {
        self.waits_for_guest() || *self == Self::CancelSnapshot
    }

    /// The body that says its options.
    pub fn body(&self) -> Vec<u8> {
        let json = match self {
            Self::Nmi { cpu } => serde_json::to_vec(&NmiOptions { cpu: *cpu }),
            Self::Snapshot(SnapshotRequest { dir, memory_dir, then }) => {
                let (dir, memory_dir) = (dir.clone(), memory_dir.clone());
                serde_json::to_vec(&SnapshotOptions { dir, memory_dir, then: *then })
            }
            Self::StopGracefully { timeout } => {
                let timeout_ms = Some(timeout.as_millis().try_into().unwrap_or(u64::MAX));
                serde_json::to_vec(&StopOptions { mode: StopMode::Graceful, timeout_ms })
            }
            _ => return Vec::new(),
        };
        // Numbers and words, and paths, which the command line takes only as UTF-8: JSON can hold them.
        json.unwrap_or_default()
    }
}

fn options<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, String> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    // An object, and not the array that serde would take for one as well.
    let object: serde_json::Map<_, _> = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    T::deserialize(serde_json::Value::Object(object)).map_err(|e| e.to_string())
}

fn snapshot(options: SnapshotOptions) -> Result<Action, String> {
    let SnapshotOptions { dir, memory_dir, then } = options;
    for (name, path) in [("dir", Some(&dir)), ("memory_dir", memory_dir.as_ref())] {
        if path.is_some_and(|path| !path.is_absolute()) {
            return Err(format!("{name} must be an absolute path"));
        }
    }
    Ok(Action::Snapshot(SnapshotRequest { dir, memory_dir, then }))
}

fn stop(options: StopOptions) -> Result<Action, String> {
    let StopOptions { mode, timeout_ms } = options;
    let timeout = timeout_ms.map(Duration::from_millis);
    match (mode, timeout) {
        (StopMode::Now, None) => Ok(Action::Stop),
        (StopMode::Now, Some(_)) => Err("timeout_ms is for mode \"graceful\"".into()),
        (StopMode::Graceful, Some(time)) if time > MAX_SHUTDOWN_TIME => {
            Err(format!("timeout_ms may be at most {}", MAX_SHUTDOWN_TIME.as_millis()))
        }
        (StopMode::Graceful, time) => {
            Ok(Action::StopGracefully { timeout: time.unwrap_or(DEFAULT_SHUTDOWN_TIME) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let timeout = Duration::from_millis(1500);
        for action in [
            Action::Pause,
            Action::Resume,
            Action::Power,
            Action::CtrlAltDel,
            Action::Nmi { cpu: None },
            Action::Nmi { cpu: Some(3) },
            Action::Reset,
            Action::Stop,
            Action::StopGracefully { timeout },
            Action::Snapshot(SnapshotRequest { dir: "/a".into(), memory_dir: None, then: Then::GoOn }),
            Action::Snapshot(SnapshotRequest {
                dir: "/a b/c".into(),
                memory_dir: Some("/fast".into()),
                then: Then::Stop,
            }),
            Action::CancelSnapshot,
        ] {
            assert_eq!(Action::parse(action.verb(), &action.body()), Ok(action));
        }
    }

    #[test]
    fn options_belong_to_their_verbs() {
        let refused = |verb, body: &str| Action::parse(verb, body.as_bytes()).unwrap_err();
        assert!(refused(Verb::Pause, r#"{"mode":"graceful"}"#).contains("mode"));
        assert!(refused(Verb::Nmi, r#"{"cpu":-1}"#).contains("-1"));
        assert!(refused(Verb::Nmi, "[1]").contains("expected a map"));
        assert!(refused(Verb::Stop, r#"{"timeout_ms":1}"#).contains("graceful"));
        assert!(refused(Verb::Stop, r#"{"mode":"gently"}"#).contains("gently"));
        assert!(refused(Verb::Stop, r#"{"mode":"graceful","timeout_ms":86400001}"#).contains("86400000"));
        for body in ["", "{}", r#"{"dir":"here"}"#, r#"{"dir":"/a","memory_dir":"b"}"#] {
            assert!(refused(Verb::Snapshot, body).contains("dir must be an absolute path"), "{body}");
        }
        assert!(refused(Verb::Snapshot, r#"{"dir":"/a","then":"sleep"}"#).contains("sleep"));
        let waits = Action::parse(Verb::Stop, br#"{"mode":"graceful"}"#).unwrap();
        assert_eq!(waits, Action::StopGracefully { timeout: Duration::from_secs(30) });
        assert!(waits.waits_for_guest() && !Action::Stop.waits_for_guest());
    }
}
