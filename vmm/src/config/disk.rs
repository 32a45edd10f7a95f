use super::flag::{self, FlagError, Settings, check_name, choose, parse, transport, yes};
use super::{ByteSize, LimitSettings, Transport};
use drystone_block::{BlockConfig, Cache, EngineKind, OnIoError};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::str::FromStr;

/// A virtio disk. In a file a table of the array `disk`; as a flag `path=x.img,id=root,readonly` or just a path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskConfig {
    /// An image file or a block device of the host.
    pub path: PathBuf,
    /// What the file holds. Never guessed: a guest can write what it likes into a raw file. So it is always written down.
    pub format: DiskFormat,
    /// Whether files are opened that the image names, such as a backing file.
    #[serde(skip_serializing_if = "super::is_default")]
    pub backing: DiskBacking,
    /// Its name in messages and counters; `disk0`, `disk1` and so on unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The guest can only read.
    pub readonly: bool,
    /// What the guest reads as serial number: at most 20 bytes of printable ASCII. Its name unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// How the guest reaches it. As the machine's other devices unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    /// How many queues. One unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// Who waits for the host.
    #[serde(skip_serializing_if = "super::is_default")]
    pub engine: EngineKind,
    /// Leave out the host's cache (O_DIRECT), as far as requests are aligned as the host asks for.
    #[serde(skip_serializing_if = "super::is_default")]
    pub direct: bool,
    /// Whether a write that the guest was told of may still be in a cache, unless the guest says otherwise.
    #[serde(skip_serializing_if = "super::is_default")]
    pub cache: Cache,
    /// What happens when the host fails a request.
    pub on_io_error: OnIoError,
    /// Bytes a second, both directions together. No limit unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<ByteSize>,
    /// Bytes that may pass at once after a rest. What the bandwidth gives in 50 ms unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_burst: Option<ByteSize>,
    /// Requests a second. No limit unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations: Option<u64>,
    /// Requests that may pass at once after a rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations_burst: Option<u64>,
    /// A limit that it shares with other disks, beside its own: the name of a `limit_group`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_group: Option<String>,
}

/// What a disk's file holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskFormat {
    /// Each byte of the disk at its own offset.
    #[default]
    Raw,
    /// QEMU's, versions 2 and 3.
    Qcow2,
    /// VMware's, with flat extents; to be read only.
    Vmdk,
}

impl DiskFormat {
    /// As configurations say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
        }
    }
}

/// Whether files are opened that an image names: those behind it, and extents with names of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskBacking {
    /// They are not: an image from somewhere may name any file of this host.
    #[default]
    Refuse,
    /// They are, to be read only.
    Allow,
}

impl DiskConfig {
    /// The disk's name: its own, or one by its place among the machine's disks.
    pub fn name(&self, index: usize) -> String {
        self.id.clone().unwrap_or_else(|| format!("disk{index}"))
    }

    /// How fast it may be.
    fn limit(&self) -> LimitSettings {
        let Self { bandwidth, bandwidth_burst, operations, operations_burst, .. } = *self;
        LimitSettings { bandwidth, bandwidth_burst, operations, operations_burst }
    }

    /// As if it had had this limit from the start.
    pub(crate) fn set_limit(&mut self, limit: LimitSettings) {
        let LimitSettings { bandwidth, bandwidth_burst, operations, operations_burst } = limit;
        (self.bandwidth, self.bandwidth_burst) = (bandwidth, bandwidth_burst);
        (self.operations, self.operations_burst) = (operations, operations_burst);
    }

    /// What the device is made of.
    ///
    /// # Errors
    /// One line that says which setting makes no sense.
    pub fn block(&self, index: usize) -> Result<BlockConfig, String> {
        let limit = self.limit().limits()?;
        if self.path.as_os_str().is_empty() {
            return Err("path: none given".into());
        }
        let name = self.name(index);
        check_name("id", &name)?;
        let mut block = BlockConfig::new(name, &self.path);
        block.read_only = self.readonly;
        block.serial = self.serial.clone();
        block.queues = self.queues.unwrap_or(block.queues);
        self.check_format()?;
        block.engine = self.engine;
        block.direct = self.direct;
        block.cache = self.cache;
        block.on_io_error = self.on_io_error;
        block.limit = limit;
        // It names the disk, which the caller does as well.
        let bare = |e: drystone_block::BlockError| match e {
            drystone_block::BlockError::Config { what, .. } => what,
            other => other.to_string(),
        };
        block.validate().map_err(bare)?;
        Ok(block)
    }

    /// What only raw images can be, or only others.
    fn check_format(&self) -> Result<(), String> {
        match self.format {
            DiskFormat::Raw if self.backing == DiskBacking::Allow => {
                Err("backing: a raw image names no other file".into())
            }
            DiskFormat::Raw => Ok(()),
            _ if cfg!(not(feature = "formats")) => {
                Err("format: this drystone was built for raw images only".into())
            }
            _ if self.engine == EngineKind::IoUring => {
                Err("engine io_uring: for raw images only; use threads, sync or auto".into())
            }
            _ if self.direct => Err("direct: for raw images only".into()),
            DiskFormat::Vmdk if !self.readonly => Err("format vmdk: can only be read: say readonly".into()),
            DiskFormat::Qcow2 | DiskFormat::Vmdk => Ok(()),
        }
    }
}

impl Settings for DiskConfig {
    const KNOWN: &'static str = "path, format, backing, id, readonly, serial, transport, queues, engine, direct, cache, on_io_error, \
        bandwidth, bandwidth_burst, operations, operations_burst or limit_group";
    const FIRST: Option<&'static str> = Some("path");

    fn set(&mut self, name: &str, value: Option<&str>) -> Result<bool, String> {
        match name {
            "path" => self.path = parse(value)?,
            "id" => self.id = Some(parse(value)?),
            "format" => self.format = choose(value, &FORMATS)?,
            "backing" => self.backing = choose(value, &BACKINGS)?,
            "readonly" => self.readonly = yes(value)?,
            "serial" => self.serial = Some(parse(value)?),
            "transport" => self.transport = Some(transport(value)?),
            "queues" => self.queues = Some(parse(value)?),
            "engine" => self.engine = choose(value, &ENGINES)?,
            "direct" => self.direct = yes(value)?,
            "cache" => self.cache = choose(value, &CACHES)?,
            "on_io_error" => self.on_io_error = choose(value, &POLICIES)?,
            "limit_group" => self.limit_group = Some(parse(value)?),
            _ => {
                let mut limit = self.limit();
                let known = limit.set(name, value)?;
                self.set_limit(limit);
                return Ok(known);
            }
        }
        Ok(true)
    }
}

const FORMATS: [(&str, DiskFormat); 3] =
    [("raw", DiskFormat::Raw), ("qcow2", DiskFormat::Qcow2), ("vmdk", DiskFormat::Vmdk)];

const BACKINGS: [(&str, DiskBacking); 2] = [("refuse", DiskBacking::Refuse), ("allow", DiskBacking::Allow)];

const CACHES: [(&str, Cache); 2] = [("writeback", Cache::Writeback), ("writethrough", Cache::Writethrough)];

const ENGINES: [(&str, EngineKind); 4] = [
    ("auto", EngineKind::Auto),
    ("sync", EngineKind::Sync),
    ("threads", EngineKind::Threads),
    ("io_uring", EngineKind::IoUring),
];

const POLICIES: [(&str, OnIoError); 4] = [
    ("report", OnIoError::Report),
    ("ignore", OnIoError::Ignore),
    ("pause", OnIoError::Pause),
    ("stop", OnIoError::Stop),
];

impl FromStr for DiskConfig {
    type Err = FlagError;

    /// The flag's form: `x.img`, `x.img,readonly`, `path=x.img,id=root,serial=A1`. A path that has a comma or an equals sign in it
    /// has its place in a file.
    fn from_str(text: &str) -> Result<Self, FlagError> {
        flag::read(text)
    }
}
