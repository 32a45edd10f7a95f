use super::Verb;
use crate::config::{ByteSize, DiskConfig, LimitSettings, NetConfig};
use crate::monitor::Removal;
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
    /// Add a disk.
    DiskAdd(Box<DiskConfig>),
    /// Take a disk away.
    DiskRemove {
        /// The disk's name.
        disk: String,
        /// How.
        removal: Removal,
    },
    /// Tell the guest that a disk has another size.
    DiskResize {
        /// The disk's name.
        disk: String,
        /// Make its file so many bytes long first; else look how long somebody else has made it.
        size: Option<ByteSize>,
    },
    /// Limit a disk, or a group of disks, from now on.
    DiskLimit {
        /// Which.
        what: Limited,
        /// What is not in here is not limited.
        limit: LimitSettings,
    },
    /// Add a network device.
    NetAdd(Box<NetConfig>),
    /// Take a network device away.
    NetRemove {
        /// The device's name.
        net: String,
        /// How.
        removal: Removal,
    },
    /// Plug a network device's cable in, or pull it.
    NetLink {
        /// The device's name.
        net: String,
        /// In.
        up: bool,
    },
    /// Limit a network device from now on, for what its guest receives, for what it sends, or both.
    NetLimit {
        /// The device's name.
        net: String,
        /// What is not in here is not limited; `None` leaves it as it is.
        rx: Option<LimitSettings>,
        /// The same for what it sends.
        tx: Option<LimitSettings>,
    },
    /// Limit the entropy device from now on. What is not in here is not limited.
    RngLimit(LimitSettings),
}

/// What is limited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Limited {
    /// The disk of that name, by itself.
    Disk(String),
    /// The disks of the limit group of that name, together.
    Group(String),
}

/// How long a guest may take to let go of a disk, unless it is said.
pub const DEFAULT_REMOVAL_TIME: Duration = Duration::from_secs(30);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoOptions {}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NmiOptions {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cpu: Option<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StopOptions {
    #[serde(default)]
    mode: StopMode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SnapshotOptions {
    #[serde(default)]
    dir: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    memory_dir: Option<PathBuf>,
    #[serde(default)]
    then: Then,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DiskRemoveOptions {
    disk: String,
    #[serde(default)]
    mode: RemovalMode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RemovalMode {
    #[default]
    Orderly,
    Surprise,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DiskResizeOptions {
    disk: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<ByteSize>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DiskLimitOptions {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disk: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(default)]
    limit: LimitSettings,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetRemoveOptions {
    net: String,
    #[serde(default)]
    mode: RemovalMode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetLinkOptions {
    net: String,
    up: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetLimitOptions {
    net: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rx: Option<LimitSettings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tx: Option<LimitSettings>,
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
            Verb::DiskAdd => disk_add(options(body)?),
            Verb::DiskRemove => disk_remove(options(body)?),
            Verb::DiskResize => {
                options(body).map(|DiskResizeOptions { disk, size }| Self::DiskResize { disk, size })
            }
            Verb::DiskLimit => {
                let DiskLimitOptions { disk, group, limit } = options(body)?;
                let what = match (disk, group) {
                    (Some(disk), None) => Limited::Disk(disk),
                    (None, Some(group)) => Limited::Group(group),
                    _ => return Err("name either a disk or a group".into()),
                };
                limit.limits().map(|_| Self::DiskLimit { what, limit })
            }
            Verb::NetAdd => net_add(options(body)?),
            Verb::NetRemove => {
                let NetRemoveOptions { net, mode, timeout_ms } = options(body)?;
                removal(mode, timeout_ms).map(|removal| Self::NetRemove { net, removal })
            }
            Verb::NetLink => options(body).map(|NetLinkOptions { net, up }| Self::NetLink { net, up }),
            Verb::NetLimit => net_limit(options(body)?),
            Verb::RngLimit => {
                let limit: LimitSettings = options(body)?;
                limit.limits().map(|_| Self::RngLimit(limit))
            }
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
            Self::DiskAdd(_) => Verb::DiskAdd,
            Self::DiskRemove { .. } => Verb::DiskRemove,
            Self::DiskResize { .. } => Verb::DiskResize,
            Self::DiskLimit { .. } => Verb::DiskLimit,
            Self::NetAdd(_) => Verb::NetAdd,
            Self::NetRemove { .. } => Verb::NetRemove,
            Self::NetLink { .. } => Verb::NetLink,
            Self::NetLimit { .. } => Verb::NetLimit,
            Self::RngLimit(_) => Verb::RngLimit,
        }
    }

    /// Whether it is done only when the guest has done something.
    pub fn waits_for_guest(&self) -> bool {
        self.patience().is_some()
    }

    /// How long the guest has for it.
    pub fn patience(&self) -> Option<Duration> {
        match self {
            Self::StopGracefully { timeout } => Some(*timeout),
            Self::DiskRemove { removal: Removal::Orderly { patience }, .. }
            | Self::NetRemove { removal: Removal::Orderly { patience }, .. } => Some(*patience),
            _ => None,
        }
    }

    /// Whether it is done while others are being carried out, because it waits for the guest or ends what another waits for.
    pub fn takes_no_turn(&self) -> bool {
        self.waits_for_guest() || *self == Self::CancelSnapshot
    }

    /// The body that says its options.
    pub fn body(&self) -> Vec<u8> {
        let millis = |time: Duration| Some(time.as_millis().try_into().unwrap_or(u64::MAX));
        let told = |removal| match removal {
            Removal::Orderly { patience } => (RemovalMode::Orderly, millis(patience)),
            Removal::Surprise => (RemovalMode::Surprise, None),
        };
        let json = match self.clone() {
            Self::DiskAdd(disk) => serde_json::to_vec(&disk),
            Self::DiskRemove { disk, removal } => {
                let (mode, timeout_ms) = told(removal);
                serde_json::to_vec(&DiskRemoveOptions { disk, mode, timeout_ms })
            }
            Self::NetAdd(net) => serde_json::to_vec(&net),
            Self::NetRemove { net, removal } => {
                let (mode, timeout_ms) = told(removal);
                serde_json::to_vec(&NetRemoveOptions { net, mode, timeout_ms })
            }
            Self::DiskResize { disk, size } => serde_json::to_vec(&DiskResizeOptions { disk, size }),
            Self::DiskLimit { what, limit } => {
                let (disk, group) = match what {
                    Limited::Disk(disk) => (Some(disk), None),
                    Limited::Group(group) => (None, Some(group)),
                };
                serde_json::to_vec(&DiskLimitOptions { disk, group, limit })
            }
            Self::NetLink { net, up } => serde_json::to_vec(&NetLinkOptions { net, up }),
            Self::NetLimit { net, rx, tx } => serde_json::to_vec(&NetLimitOptions { net, rx, tx }),
            Self::RngLimit(limit) => serde_json::to_vec(&limit),
            Self::Snapshot(SnapshotRequest { dir, memory_dir, then }) => {
                serde_json::to_vec(&SnapshotOptions { dir, memory_dir, then })
            }
            Self::Nmi { cpu } => serde_json::to_vec(&NmiOptions { cpu }),
            Self::StopGracefully { timeout } => {
                serde_json::to_vec(&StopOptions { mode: StopMode::Graceful, timeout_ms: millis(timeout) })
            }
            _ => return Vec::new(),
        };
        // Numbers and words, and paths, which the command line takes only as UTF-8: JSON can hold them.
        json.unwrap_or_default()
    }
}

fn options<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let body = if body.iter().all(u8::is_ascii_whitespace) { b"{}" } else { body };
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

fn net_limit(options: NetLimitOptions) -> Result<Action, String> {
    let NetLimitOptions { net, rx, tx } = options;
    if rx.is_none() && tx.is_none() {
        return Err("say rx, tx, or both".into());
    }
    for (which, limit) in [("rx", &rx), ("tx", &tx)] {
        limit.unwrap_or_default().limits().map_err(|what| format!("{which}: {what}"))?;
    }
    Ok(Action::NetLimit { net, rx, tx })
}

fn disk_add(disk: DiskConfig) -> Result<Action, String> {
    // It is checked again, with the others, when it is made.
    disk.block(0).map(|_| Action::DiskAdd(Box::new(disk)))
}

fn net_add(net: NetConfig) -> Result<Action, String> {
    // It is checked again, with the others, when it is made.
    net.device(0, "").map(|_| Action::NetAdd(Box::new(net)))
}

fn disk_remove(options: DiskRemoveOptions) -> Result<Action, String> {
    let DiskRemoveOptions { disk, mode, timeout_ms } = options;
    removal(mode, timeout_ms).map(|removal| Action::DiskRemove { disk, removal })
}

fn removal(mode: RemovalMode, timeout_ms: Option<u64>) -> Result<Removal, String> {
    let patience = timeout_ms.map_or(DEFAULT_REMOVAL_TIME, Duration::from_millis);
    match mode {
        RemovalMode::Orderly if patience > MAX_SHUTDOWN_TIME => {
            Err(format!("timeout_ms may be at most {}", MAX_SHUTDOWN_TIME.as_millis()))
        }
        RemovalMode::Orderly => Ok(Removal::Orderly { patience }),
        RemovalMode::Surprise if timeout_ms.is_some() => Err("timeout_ms is for mode \"orderly\"".into()),
        RemovalMode::Surprise => Ok(Removal::Surprise),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let timeout = Duration::from_millis(1500);
        let limit = LimitSettings { bandwidth: Some(ByteSize(1 << 20)), ..LimitSettings::default() };
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
            Action::DiskAdd(Box::new("path=a.img,id=a,readonly,queues=2".parse().unwrap())),
            Action::DiskRemove { disk: "a".into(), removal: Removal::Surprise },
            Action::DiskRemove { disk: "a".into(), removal: Removal::Orderly { patience: timeout } },
            Action::DiskResize { disk: "root".into(), size: None },
            Action::DiskResize { disk: "root".into(), size: Some(ByteSize(3 << 9)) },
            Action::DiskLimit { what: Limited::Disk("root".into()), limit },
            Action::DiskLimit { what: Limited::Group("shared".into()), limit },
            Action::NetAdd(Box::new("tap=vm0,id=a,queues=2".parse().unwrap())),
            Action::NetRemove { net: "a".into(), removal: Removal::Surprise },
            Action::NetRemove { net: "a".into(), removal: Removal::Orderly { patience: timeout } },
            Action::NetLink { net: "net0".into(), up: false },
            Action::NetLimit { net: "net0".into(), rx: Some(limit), tx: None },
            Action::NetLimit { net: "net0".into(), rx: Some(LimitSettings::default()), tx: Some(limit) },
            Action::RngLimit(LimitSettings::default()),
            Action::RngLimit(limit),
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
        assert!(refused(Verb::DiskAdd, "").contains("path"));
        assert!(refused(Verb::DiskAdd, r#"{"path":"a","sise":1}"#).contains("sise"));
        assert!(refused(Verb::DiskRemove, "").contains("disk"));
        assert!(refused(Verb::DiskRemove, r#"{"disk":"a","mode":"rudely"}"#).contains("rudely"));
        assert!(refused(Verb::DiskRemove, r#"{"disk":"a","timeout_ms":86400001}"#).contains("86400000"));
        let surprise = r#"{"disk":"a","mode":"surprise","timeout_ms":1}"#;
        assert!(refused(Verb::DiskRemove, surprise).contains("orderly"));
        let waits = Action::parse(Verb::DiskRemove, br#"{"disk":"a"}"#).unwrap();
        assert_eq!(waits.patience(), Some(DEFAULT_REMOVAL_TIME));
        assert!(refused(Verb::DiskResize, "").contains("disk"));
        assert!(refused(Verb::DiskResize, r#"{"disk":"root","size":"1X"}"#).contains("X"));
        assert!(
            refused(Verb::DiskLimit, r#"{"disk":"root","limit":{"bandwidth":0}}"#).contains("bandwidth 0")
        );
        for body in [r#"{"limit":{}}"#, r#"{"disk":"a","group":"b"}"#] {
            assert!(refused(Verb::DiskLimit, body).contains("either a disk or a group"));
        }
        assert!(refused(Verb::NetAdd, r#"{"user":true,"tap":"a"}"#).contains("several networks"));
        assert!(refused(Verb::NetRemove, r#"{"net":"a","mode":"rudely"}"#).contains("rudely"));
        assert!(refused(Verb::NetLink, r#"{"net":"a"}"#).contains("up"));
        assert!(refused(Verb::NetLimit, r#"{"net":"a"}"#).contains("rx, tx, or both"));
        let zero = r#"{"net":"a","tx":{"bandwidth":0}}"#;
        assert!(refused(Verb::NetLimit, zero).contains("tx: bandwidth 0"));
        assert!(refused(Verb::RngLimit, r#"{"operations_burst":1}"#).contains("without operations"));
        let waits = Action::parse(Verb::Stop, br#"{"mode":"graceful"}"#).unwrap();
        assert_eq!(waits, Action::StopGracefully { timeout: Duration::from_secs(30) });
        assert!(waits.waits_for_guest() && !Action::Stop.waits_for_guest());
    }
}
