use super::DeviceId;
use super::groups::Groups;
use super::network::Network;
use super::virtio::RNG;
use crate::config::Config;
use drystone_block::{BlockHandle, GrowError, ResizeError};
use drystone_limit::LimitConfig;
use drystone_net::NetHandle;
use drystone_observe::{Observe, Visitor};
use drystone_rng::RngHandle;
use drystone_virtio::PostError;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a virtio device is set by, and asked what it counted.
#[derive(Clone)]
pub(super) enum DeviceHandle {
    Disk(BlockHandle),
    Rng(RngHandle),
    Net(NetHandle, Network),
}

impl DeviceHandle {
    /// The limits that hold now, by what they are called.
    pub(super) fn limits(&self) -> Vec<(&'static str, LimitConfig)> {
        match self {
            Self::Disk(disk) => vec![("limit", disk.limit())],
            Self::Rng(rng) => vec![("limit", rng.limit())],
            Self::Net(net, _) => {
                let (rx, tx) = net.limits();
                vec![("rx_limit", rx), ("tx_limit", tx)]
            }
        }
    }
}

impl Observe for DeviceHandle {
    fn observe(&self, to: &mut Visitor<'_>) {
        match self {
            Self::Disk(disk) => disk.observe(to),
            Self::Rng(rng) => rng.observe(to),
            Self::Net(net, network) => {
                network.observe(to);
                net.observe(to);
            }
        }
    }
}

/// What can be set on a machine's virtio devices while it runs or is paused, from any thread: a device's handle tells its
/// worker, and nobody waits. Clones are the same; devices come and go.
#[derive(Clone, Default)]
pub struct Handles {
    devices: Arc<Mutex<BTreeMap<String, DeviceHandle>>>,
    groups: Groups,
}

/// Why something was not set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// No such disk.
    #[error("there is no disk `{0}`")]
    NoDisk(String),
    /// No such limit group.
    #[error("there is no limit group `{0}`")]
    NoGroup(String),
    /// No such network device.
    #[error("there is no network device `{0}`")]
    NoNet(String),
    /// A device is told too much at once.
    #[error("network device `{name}`: {cause}")]
    Post {
        /// The device.
        name: String,
        /// Why it was not told.
        cause: PostError,
    },
    /// The machine was made without.
    #[error("there is no entropy device")]
    NoRng,
    /// The disk's file, or its device, does not take it.
    #[error(transparent)]
    Resize(#[from] ResizeError),
}

impl HandleError {
    /// Whether what was asked for makes no sense, rather than having failed.
    pub fn is_refusal(&self) -> bool {
        !matches!(
            self,
            Self::Resize(ResizeError::Size { .. } | ResizeError::Grow { cause: GrowError::Host(_), .. })
        )
    }
}

impl Handles {
    pub(super) fn new(groups: Groups) -> Self {
        Self { devices: Arc::default(), groups }
    }

    /// A device has come, under its name among the machine's parts.
    pub(super) fn add(&self, part: &str, handle: DeviceHandle) {
        self.lock().insert(part.into(), handle);
    }

    /// A device has gone: nothing of it is held here any more.
    pub(super) fn remove(&self, part: &str) {
        self.lock().remove(part);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, DeviceHandle>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disk(&self, name: &str) -> Result<BlockHandle, HandleError> {
        match self.lock().get(&DeviceId::Disk(name.into()).part()) {
            Some(DeviceHandle::Disk(disk)) => Ok(disk.clone()),
            _ => Err(HandleError::NoDisk(name.into())),
        }
    }

    /// Whether the device was pulled.
    pub(super) fn is_pulled(&self, device: &DeviceId) -> bool {
        match self.lock().get(&device.part()) {
            Some(DeviceHandle::Disk(disk)) => disk.is_pulled(),
            Some(DeviceHandle::Net(net, _)) => net.is_pulled(),
            _ => false,
        }
    }

    /// Cuts a device off from what it has of the host.
    pub(super) fn pull(&self, device: &DeviceId) {
        match self.lock().get(&device.part()) {
            Some(DeviceHandle::Disk(disk)) => disk.pull(),
            Some(DeviceHandle::Net(net, _)) => net.pull(),
            _ => {}
        }
    }

    /// Writes the limits that devices have now into their configuration: somebody may have changed them.
    pub(super) fn write_limits(&self, config: &mut Config) {
        for (index, disk) in config.disk.iter_mut().enumerate() {
            if let Ok(handle) = self.disk(&disk.name(index)) {
                disk.set_limit(handle.limit().into());
            }
        }
        for group in &mut config.limit_group {
            if let Some(limit) = self.groups.get(&group.name) {
                group.set_limit(limit.config().into());
            }
        }
        for (index, net) in config.net.iter_mut().enumerate() {
            if let Ok(handle) = self.net(&net.name(index)) {
                let (rx, tx) = handle.limits();
                (net.rx, net.tx) = (rx.into(), tx.into());
            }
        }
    }

    /// Makes the disk's file `size` bytes long, or else looks how long it is, and tells the guest. Returns its size in bytes.
    ///
    /// # Errors
    /// [`HandleError`]; the guest was told of nothing then.
    pub fn resize_disk(&self, name: &str, size: Option<u64>) -> Result<u64, HandleError> {
        let disk = self.disk(name)?;
        Ok(match size {
            Some(size) => disk.grow(size).map(|()| size)?,
            None => disk.reread_size()?,
        })
    }

    /// Other limits for a disk from now on.
    ///
    /// # Errors
    /// [`HandleError::NoDisk`].
    pub fn limit_disk(&self, name: &str, limit: LimitConfig) -> Result<(), HandleError> {
        self.disk(name).map(|disk| disk.set_limit(limit))
    }

    /// Other limits for a group of disks from now on.
    ///
    /// # Errors
    /// [`HandleError::NoGroup`].
    pub fn limit_group(&self, name: &str, limit: LimitConfig) -> Result<(), HandleError> {
        if !self.groups.configure(name, limit) {
            return Err(HandleError::NoGroup(name.into()));
        }
        // Which of them are in it is not worth knowing.
        for device in self.lock().values() {
            if let DeviceHandle::Disk(disk) = device {
                disk.look_again();
            }
        }
        Ok(())
    }

    fn net(&self, name: &str) -> Result<NetHandle, HandleError> {
        match self.lock().get(&DeviceId::Net(name.into()).part()) {
            Some(DeviceHandle::Net(net, _)) => Ok(net.clone()),
            _ => Err(HandleError::NoNet(name.into())),
        }
    }

    /// Plugs a network device's cable in, or pulls it.
    ///
    /// # Errors
    /// [`HandleError::NoNet`], [`HandleError::Post`].
    pub fn link_net(&self, name: &str, up: bool) -> Result<(), HandleError> {
        let posted = self.net(name)?.set_link(up);
        posted.map_err(|cause| HandleError::Post { name: name.into(), cause })
    }

    /// Other limits for a network device from now on, for what its guest receives and for what it sends; those that are absent stay.
    ///
    /// # Errors
    /// [`HandleError::NoNet`].
    pub fn limit_net(
        &self,
        name: &str,
        rx: Option<LimitConfig>,
        tx: Option<LimitConfig>,
    ) -> Result<(), HandleError> {
        let net = self.net(name)?;
        let (old_rx, old_tx) = net.limits();
        net.set_limits(rx.unwrap_or(old_rx), tx.unwrap_or(old_tx));
        Ok(())
    }

    /// Other limits for the entropy device from now on.
    ///
    /// # Errors
    /// [`HandleError::NoRng`].
    pub fn limit_rng(&self, limit: LimitConfig) -> Result<(), HandleError> {
        match self.lock().get(RNG) {
            Some(DeviceHandle::Rng(rng)) => {
                rng.set_limit(limit);
                Ok(())
            }
            _ => Err(HandleError::NoRng),
        }
    }
}
