use crate::shared::Shared;
use crate::worker::Queue;
use crate::{
    BlockConfig, BlockError, BlockHandle, Cache, Engine, EngineKind, Image, OnIoError, RawDisk, engine, space,
};
use drystone_bus::Clock;
use drystone_limit::LimitGroup;
use drystone_memory::Mem;
use drystone_state::PersistDyn;
use drystone_virtio::{
    Cx, Description, Fault, Mailbox, Postbox, Source, Timer, VirtioDevice, Worker, mailbox,
};
use std::io;
use std::sync::Arc;

/// The device type (5.2.1).
const TYPE: u32 = 2;
/// Messages that wait at most: an operator's, while the machine is paused.
const MAX_MESSAGES: usize = 16;

/// A request that the host failed, and that the guest was not told of: the machine is to be paused or stopped.
#[derive(Debug, thiserror::Error)]
#[error("disk `{id}`: cannot {what}: {cause}")]
#[non_exhaustive]
pub struct IoFailure {
    /// The disk.
    pub id: String,
    /// What was tried.
    pub what: &'static str,
    /// What the host said.
    pub cause: io::Error,
    /// What is to happen: [`OnIoError::Pause`] or [`OnIoError::Stop`].
    pub policy: OnIoError,
}

/// Hears of failures that are to pause or stop the machine. Called from workers, under locks of the core: it must not wait, and must
/// not call the device.
pub(crate) type OnFailure = Arc<dyn Fn(&IoFailure) + Send + Sync>;

/// What a [`Block`] is given instead of the host's time and a VMM.
#[derive(Clone)]
pub struct Host {
    /// For rate limits.
    pub clock: Arc<dyn Clock>,
    /// Hears of failures that are to pause or stop the machine, as [`IoFailure::policy`] says. Called from workers, under locks of the core: it must not wait for the machine, and must not call the device.
    pub on_failure: Arc<dyn Fn(&IoFailure) + Send + Sync>,
    /// Other disks that share a limit with this one, beside the one that it has for itself.
    pub group: Option<LimitGroup>,
}

/// From the handle to the device.
#[derive(Debug)]
pub(crate) enum Message {
    /// The disk has another size.
    Size { sectors: u64 },
}

/// The device. As a worker it has no queue, but takes the handle's messages; each queue has a worker of its own.
pub struct Block<M: Mem> {
    shared: Arc<Shared>,
    queue_size: u16,
    /// Until they are handed out.
    queues: Vec<Queue<M>>,
    postbox: Postbox<Message>,
    mailbox: Mailbox<Message>,
}

impl<M: Mem> Block<M> {
    /// A disk on the raw file that `config` names, with an engine for each queue as it says.
    ///
    /// # Errors
    /// [`BlockError`]; the file is closed then, and was not changed.
    pub fn open(config: &BlockConfig, host: Host) -> Result<(Self, BlockHandle), BlockError> {
        config.validate()?;
        Self::on_image(config, Arc::new(RawDisk::open(config)?), host)
    }

    /// A disk on an image of the caller's, of any format. The path in `config` is used in messages only.
    ///
    /// # Errors
    /// [`BlockError`].
    pub fn on_image(
        config: &BlockConfig,
        image: Arc<dyn Image>,
        host: Host,
    ) -> Result<(Self, BlockHandle), BlockError> {
        let size = image.size().map_err(|cause| BlockError::File {
            id: config.id.clone(),
            path: config.path.clone(),
            attempt: "find the size",
            cause,
        })?;
        Self::on(image, config, size, host)
    }

    /// A disk that was [pulled](BlockHandle::pull) before it was saved, to be restored: nothing is opened.
    ///
    /// # Errors
    /// [`BlockError::Config`], [`BlockError::Event`].
    pub fn pulled(config: &BlockConfig, host: Host) -> Result<(Self, BlockHandle), BlockError> {
        let config = &BlockConfig { engine: EngineKind::Sync, ..config.clone() };
        let (device, handle) = Self::on(Arc::new(RawDisk::closed(config.read_only)), config, 0, host)?;
        handle.pull();
        Ok((device, handle))
    }

    fn on(
        image: Arc<dyn Image>,
        config: &BlockConfig,
        size: u64,
        host: Host,
    ) -> Result<(Self, BlockHandle), BlockError> {
        let (engine, engines) = engine::all(config, &image)?;
        let (device, handle) = Self::with_engines(config, size, engines, host)?;
        Ok((device, BlockHandle { image: Some(image), engine, ..handle }))
    }

    /// A disk of `size` bytes behind engines of the caller's, one for each queue. The path in `config` is not looked at.
    ///
    /// # Errors
    /// [`BlockError::Config`], also if there is not one engine for each queue; [`BlockError::Event`].
    pub fn with_engines(
        config: &BlockConfig,
        size: u64,
        engines: Vec<Box<dyn Engine<M>>>,
        host: Host,
    ) -> Result<(Self, BlockHandle), BlockError> {
        config.validate()?;
        if engines.len() != usize::from(config.queues) {
            let what = format!("queues {}: there are {} engines", config.queues, engines.len());
            return Err(BlockError::Config { id: config.id.clone(), what });
        }
        let event = |cause| BlockError::Event { id: config.id.clone(), cause };
        let shared = Arc::new(Shared::new(config, size, host));
        let (postbox, mailbox) = mailbox(MAX_MESSAGES).map_err(event)?;
        let timers = engines.iter().map(|_| Timer::new()).collect::<Result<Vec<_>, _>>().map_err(event)?;
        let parts = (0..).zip(engines).zip(&timers);
        let queues = parts
            .map(|((index, engine), timer)| Queue::new(index, engine, shared.clone(), timer.clone()))
            .collect();
        let handle = BlockHandle {
            shared: shared.clone(),
            image: None,
            engine: EngineKind::Auto,
            postbox: postbox.clone(),
            timers,
        };
        Ok((Self { shared, queue_size: config.queue_size, queues, postbox, mailbox }, handle))
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The device will see another size once it runs.
    pub(crate) fn resize_later(&self, sectors: u64) {
        // Freshly built, nothing waits there.
        let _ = self.postbox.post(Message::Size { sectors });
    }

    fn take_messages(&mut self, cx: &Cx<'_, M>) {
        while let Some(message) = self.mailbox.take() {
            match message {
                Message::Size { sectors } if sectors != self.shared.sectors() => {
                    self.shared.set_sectors(sectors);
                    cx.config_changed();
                }
                Message::Size { .. } => {}
            }
        }
    }
}

impl<M: Mem> Worker<M> for Block<M> {
    fn start(&mut self, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.take_messages(cx);
        Ok(())
    }
    fn on_kick(&mut self, _: u16, _: &mut Cx<'_, M>) -> Result<(), Fault> {
        Err(Fault::Bug("every queue of a disk was handed out"))
    }
    fn on_ready(&mut self, _: u32, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.take_messages(cx);
        Ok(())
    }
    fn sources(&self) -> Vec<Source> {
        vec![self.mailbox.source(0)]
    }
}

impl<M: Mem> VirtioDevice<M> for Block<M> {
    fn describe(&self) -> Description {
        let queues = self.shared.counters.len();
        Description {
            device_type: TYPE,
            features: space::features(self.shared.read_only, queues.try_into().unwrap_or(u16::MAX)),
            queue_sizes: vec![self.queue_size; queues],
            config_len: space::LEN as u32,
            shared_memory: Vec::new(),
        }
    }
    fn config_read(&self, offset: u64, out: &mut [u8]) {
        let space = space::content(&self.shared, self.queue_size);
        let from = usize::try_from(offset).ok().and_then(|o| space.get(o..)).unwrap_or_default();
        out.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    }
    fn config_write(&mut self, offset: u64, data: &[u8]) {
        if let Some(on) = space::writeback(offset, data) {
            self.shared.set_writeback(on);
        }
    }
    fn split(&mut self) -> Vec<(Vec<u16>, Box<dyn Worker<M>>)> {
        let worker =
            |queue: Queue<M>| -> (Vec<u16>, Box<dyn Worker<M>>) { (vec![queue.index()], Box::new(queue)) };
        self.queues.drain(..).map(worker).collect()
    }
    fn reset(&mut self) {
        let Self { shared, queue_size: _, queues: _, postbox: _, mailbox: _ } = self;
        shared.set_writeback(shared.cache == Cache::Writeback);
        // A guest's own reset must not give it a burst: what the limits have saved up stays.
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}
