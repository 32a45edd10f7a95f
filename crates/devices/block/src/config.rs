use crate::BlockError;
use drystone_limit::LimitConfig;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The most queues that a device may have.
pub const MAX_QUEUES: u16 = 64;
/// Length of the serial number that a driver can ask for (5.2.6, VIRTIO_BLK_T_GET_ID), in bytes.
pub(crate) const SERIAL_LEN: usize = 20;

/// A disk as its user describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockConfig {
    /// Its name in messages, and its serial number unless that is given.
    pub id: String,
    /// A raw image file or a block device of the host.
    pub path: PathBuf,
    /// The guest can only read. The file is opened so that this program cannot write it either.
    #[serde(default)]
    pub read_only: bool,
    /// What the guest reads as serial number: at most 20 bytes of printable ASCII. The first 20 of the name unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// How many queues, from 1 to [`MAX_QUEUES`]; sensible is one for each virtual CPU.
    #[serde(default = "one")]
    pub queues: u16,
    /// Entries of a queue: a power of two from 4 to 1024.
    #[serde(default = "default_queue_size")]
    pub queue_size: u16,
    /// Who does the I/O.
    #[serde(default)]
    pub engine: EngineKind,
    /// Requests leave out the host's cache (O_DIRECT), as far as they are aligned as the host asks for; others go through it.
    #[serde(default)]
    pub direct: bool,
    /// Whether a write that the guest was told of may still be in a cache, until the driver says otherwise or flushes.
    #[serde(default)]
    pub cache: Cache,
    /// What happens when the host fails a request.
    #[serde(default)]
    pub on_io_error: OnIoError,
    /// How fast the disk may be.
    #[serde(default)]
    pub limit: LimitConfig,
}

/// Who does the I/O.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// [`IoUring`](Self::IoUring) where the host permits it and the image has a file for it, else [`Threads`](Self::Threads).
    #[default]
    Auto,
    /// The thread that serves the queue waits for the host: [`SyncEngine`](crate::SyncEngine).
    Sync,
    /// Others wait for it: [`ThreadEngine`](crate::ThreadEngine).
    Threads,
    /// Nobody waits: [`UringEngine`](crate::UringEngine).
    IoUring,
}

impl EngineKind {
    /// As configurations say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Sync => "sync",
            Self::Threads => "threads",
            Self::IoUring => "io_uring",
        }
    }
}

/// When a write counts as done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cache {
    /// When the host has taken it. The driver flushes, or switches this off.
    #[default]
    Writeback,
    /// When it is on stable storage. The driver may switch the cache on.
    Writethrough,
}

/// What happens when the host fails a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnIoError {
    /// The guest is told (VIRTIO_BLK_S_IOERR), and does what it does with a broken disk.
    #[default]
    Report,
    /// A write or a flush is answered as if it had been done: for content that may be lost, such as a scratch disk. There is
    /// nothing that a failed read could be answered with: it is reported.
    Ignore,
    /// The guest is not told: its queue stands still, and the VMM is told, to pause the machine. The request is tried again
    /// when the machine resumes: for a host whose disk is full until somebody makes room.
    Pause,
    /// As [`Pause`](Self::Pause), but the VMM is to stop the machine.
    Stop,
}

fn one() -> u16 {
    1
}

fn default_queue_size() -> u16 {
    256
}

impl BlockConfig {
    /// A disk at `path` with everything else as it is when not given.
    pub fn new(id: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self {
            id: id.into(),
            path: path.into(),
            read_only: false,
            serial: None,
            queues: one(),
            queue_size: default_queue_size(),
            engine: EngineKind::default(),
            direct: false,
            cache: Cache::default(),
            on_io_error: OnIoError::default(),
            limit: LimitConfig::default(),
        }
    }

    /// Checks what can be checked without touching the host.
    ///
    /// # Errors
    /// [`BlockError::Config`] for the first field that makes no sense.
    pub fn validate(&self) -> Result<(), BlockError> {
        let bad = |what: String| Err(BlockError::Config { id: self.id.clone(), what });
        if self.queues == 0 || self.queues > MAX_QUEUES {
            return bad(format!("queues {}: must be 1 to {MAX_QUEUES}", self.queues));
        }
        if !self.queue_size.is_power_of_two() || !(4..=1024).contains(&self.queue_size) {
            return bad(format!("queue_size {}: must be a power of two from 4 to 1024", self.queue_size));
        }
        if let Some(serial) = &self.serial
            && (serial.len() > SERIAL_LEN || !serial.bytes().all(|b| (0x20..0x7f).contains(&b)))
        {
            return bad(format!("serial {serial:?}: must be at most 20 bytes of printable ASCII"));
        }
        Ok(())
    }

    /// What the guest is given, padded with zeros.
    pub(crate) fn serial_bytes(&self) -> [u8; SERIAL_LEN] {
        let text = self.serial.as_ref().unwrap_or(&self.id);
        let mut bytes = [0; SERIAL_LEN];
        bytes.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
        bytes
    }
}
