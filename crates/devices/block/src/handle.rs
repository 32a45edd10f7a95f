use crate::counters::Sums;
use crate::device::Message;
use crate::request::SECTOR;
use crate::shared::Shared;
use crate::{BlockCounters, EngineKind, GrowError, Image, ResizeError};
use drystone_limit::LimitConfig;
use drystone_observe::{Observe, Visitor};
use drystone_virtio::{Postbox, Timer};
use std::sync::Arc;
use std::time::Duration;

/// What a VMM keeps of a disk while its guest runs. Cheap to clone.
#[derive(Clone)]
pub struct BlockHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) image: Option<Arc<dyn Image>>,
    /// `Auto` for engines of the caller's.
    pub(crate) engine: EngineKind,
    pub(crate) postbox: Postbox<Message>,
    /// Wakes each queue's worker.
    pub(crate) timers: Vec<Timer>,
}

impl BlockHandle {
    /// Makes the file `bytes` long and tells the guest. A machine that is paused hears of it when it runs.
    ///
    /// # Errors
    /// [`ResizeError`]; the guest was told of nothing then.
    pub fn grow(&self, bytes: u64) -> Result<(), ResizeError> {
        let grown = match &self.image {
            Some(image) => image.grow(bytes),
            None => Err(GrowError::NotAFile),
        };
        grown.map_err(|cause| ResizeError::Grow { id: self.shared.id.clone(), cause })?;
        self.set_size(bytes)
    }

    /// Looks how large the file is now and tells the guest. Somebody has changed its size before: this never does.
    ///
    /// A guest that still uses what lies past a new, smaller end gets I/O errors there. Returns the size in bytes.
    ///
    /// # Errors
    /// [`ResizeError`]; nothing has changed then.
    pub fn reread_size(&self) -> Result<u64, ResizeError> {
        let size = match &self.image {
            Some(image) => image.size(),
            None => Err(std::io::ErrorKind::Unsupported.into()),
        };
        let size = size.map_err(|cause| ResizeError::Size { id: self.shared.id.clone(), cause })?;
        self.set_size(size)?;
        Ok(size)
    }

    /// Tells the guest that the disk has `bytes` bytes now, for engines that have no [`Image`]. A machine that is paused
    /// hears of it when it runs.
    ///
    /// # Errors
    /// [`ResizeError::Post`]; nothing has changed then.
    pub fn set_size(&self, bytes: u64) -> Result<(), ResizeError> {
        let id = || self.shared.id.clone();
        let message = Message::Size { sectors: bytes / SECTOR };
        self.postbox.post(message).map_err(|cause| ResizeError::Post { id: id(), cause })
    }

    /// Has the disk's files be whole for whoever reads them next: see [`Image::settle`].
    ///
    /// # Errors
    /// What the host said.
    pub fn settle(&self) -> std::io::Result<()> {
        match &self.image {
            Some(image) if !self.is_pulled() => image.settle(),
            _ => Ok(()),
        }
    }

    /// The disk is gone, whatever the guest is doing with it: its file is closed and free for others as soon as the host has ended
    /// what it is just doing with it. To the guest it is a disk of which every request fails, also those that wait: so none is left
    /// without an answer, which drivers wait for before they give a disk up. For engines of the caller's, nothing more is
    /// submitted to them.
    pub fn pull(&self) {
        self.shared.pull();
        if let Some(image) = &self.image {
            image.close();
        }
        self.look_again();
    }

    /// Whether it was pulled.
    pub fn is_pulled(&self) -> bool {
        self.shared.is_pulled()
    }

    /// Other rate limits of its own from now on, also for requests that wait.
    pub fn set_limit(&self, limit: LimitConfig) {
        self.shared.limiter.configure(limit);
        self.look_again();
    }

    /// Limits have changed, also those of its group: requests that wait have set their timers by the old ones.
    pub fn look_again(&self) {
        self.timers.iter().for_each(|timer| timer.set(Duration::ZERO));
    }

    /// Its own rate limits that hold now.
    pub fn limit(&self) -> LimitConfig {
        self.shared.limiter.config()
    }

    /// Who does the I/O: what [`EngineKind::Auto`] has come to. That itself for engines of the caller's.
    pub fn engine(&self) -> EngineKind {
        self.engine
    }

    /// The size that the guest sees, in bytes.
    pub fn size(&self) -> u64 {
        self.shared.sectors().saturating_mul(SECTOR)
    }

    /// How many requests the engines have now.
    pub fn in_flight(&self) -> u32 {
        self.shared.counters.iter().map(BlockCounters::in_flight).sum()
    }

    /// What each queue did.
    pub fn counters(&self) -> &[BlockCounters] {
        &self.shared.counters
    }
}

impl Observe for BlockHandle {
    fn observe(&self, to: &mut Visitor<'_>) {
        to.number("size_bytes", self.size());
        to.flag("read_only", self.shared.read_only);
        to.flag("pulled", self.shared.is_pulled());
        to.text("engine", self.engine.name());
        to.flag("writeback", self.shared.writeback());
        to.number("in_flight", self.in_flight().into());
        Sums(&self.shared.counters).observe(to);
    }
}
