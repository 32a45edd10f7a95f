use super::lane::{Actor, Lane};
use super::status::{CORE_FEATURES, DEVICE_FEATURES};
use super::{Control, LaneInfo, QueueRegisters, Shared, VirtioCore};
use crate::ring::Ring;
use crate::{Doorbell, Interrupts, Observer, Unobserved, VirtioDevice, Worker};
use drystone_memory::Mem;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// What a VMM gives a device's core, besides memory and interrupts.
#[derive(Clone)]
pub struct Host {
    /// How queues are rung when no driver does: at start and resume, and for notifications that come as an exit.
    pub doorbell: Arc<dyn Doorbell>,
    /// Who hears of faults.
    pub observer: Arc<dyn Observer>,
    /// How long a pause, a reset or an access to the configuration space waits for a worker or its back end. What takes
    /// longer is reported and given up; see [`VirtioCore::pause`] and [`VirtioCore::reset`].
    pub patience: Duration,
}

impl Host {
    /// A patience of 10 seconds, and nobody hears of faults.
    pub fn new(doorbell: Arc<dyn Doorbell>) -> Self {
        Self { doorbell, observer: Arc::new(Unobserved), patience: Duration::from_secs(10) }
    }
}

/// Why a device was not taken: it describes what cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A size that is not a power of two up to 32768, or more than 65535 queues.
    #[error("queue {queue}: a queue cannot have {size} entries")]
    QueueSize {
        /// The queue.
        queue: usize,
        /// The size.
        size: u16,
    },
    /// A queue that was handed out twice, or does not exist.
    #[error("queue {queue}: handed out twice, or does not exist")]
    Split {
        /// The queue.
        queue: u16,
    },
    /// Feature bits that are not a device's to offer (2.2).
    #[error("features {features:#x} are not the device's to offer")]
    Features {
        /// Those bits.
        features: u64,
    },
}

impl<M: Mem> VirtioCore<M> {
    /// Takes a device over, not started, with the status 0.
    ///
    /// # Errors
    /// [`BuildError`] for a device that contradicts itself.
    pub fn new(
        mut device: Box<dyn VirtioDevice<M>>,
        memory: M,
        interrupts: Arc<dyn Interrupts>,
        host: Host,
    ) -> Result<Self, BuildError> {
        let description = device.describe();
        let foreign = description.features & !DEVICE_FEATURES;
        if foreign != 0 {
            return Err(BuildError::Features { features: foreign });
        }
        let (mut rings, queues) = rings(&description.queue_sizes)?;
        let mut route = vec![0; rings.len()];
        let savable = device.persist().is_some();

        let mut others = Vec::new();
        for (n, (queues, mut worker)) in device.split().into_iter().enumerate() {
            for queue in &queues {
                if let Some(lane) = route.get_mut(usize::from(*queue)) {
                    *lane = n + 1;
                }
            }
            let taken = take(&mut rings, &queues)?;
            let info = info(&mut *worker, queues);
            others.push(Lane::new(info, Actor::Worker(worker), taken, memory.clone()));
        }
        let own: Vec<u16> =
            (0..).zip(&route).filter(|(_, lane)| **lane == 0).map(|(queue, _)| queue).collect();
        let taken = take(&mut rings, &own)?;
        let info = info(&mut *device, own);
        let mut lanes = vec![Lane::new(info, Actor::Device(device), taken, memory)];
        lanes.append(&mut others);

        let Host { doorbell, observer, patience } = host;
        Ok(Self {
            features: description.features | CORE_FEATURES,
            description,
            savable,
            shared: Shared::new(interrupts, observer),
            doorbell,
            patience,
            control: Mutex::new(Control { driver_features: 0, paused: false, queues }),
            lanes,
            route,
        })
    }
}

type Rings = Vec<Option<Ring>>;

fn rings(sizes: &[u16]) -> Result<(Rings, Vec<QueueRegisters>), BuildError> {
    let (mut rings, mut registers) = (Vec::new(), Vec::new());
    for (queue, &size) in sizes.iter().enumerate() {
        let bad = BuildError::QueueSize { queue, size };
        let index = u16::try_from(queue).ok().filter(|q| *q < u16::MAX).ok_or(bad.clone())?;
        rings.push(Some(Ring::new(index, size).map_err(|_| bad)?));
        registers.push(QueueRegisters::new(size));
    }
    Ok((rings, registers))
}

fn take(rings: &mut Rings, queues: &[u16]) -> Result<Vec<Ring>, BuildError> {
    let one = |&queue: &u16| {
        rings.get_mut(usize::from(queue)).and_then(Option::take).ok_or(BuildError::Split { queue })
    };
    queues.iter().map(one).collect()
}

fn info<M: Mem, W: Worker<M> + ?Sized>(worker: &mut W, queues: Vec<u16>) -> LaneInfo {
    LaneInfo { queues, sources: worker.sources(), offloaded: worker.offloaded() }
}
