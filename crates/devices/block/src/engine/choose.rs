use super::{Engine, SyncEngine, ThreadEngine, ThreadPool, UringEngine};
use crate::{BlockConfig, BlockError, EngineKind, Image};
use drystone_memory::Mem;
use std::io;
use std::sync::Arc;

/// Threads of a disk at most: so many requests wait for the host at once.
const THREADS: usize = 16;

type Engines<M> = Vec<Box<dyn Engine<M>>>;

/// An engine for each queue of the kind that `config` asks for, and the kind that they are.
pub(crate) fn all<M: Mem>(
    config: &BlockConfig,
    image: &Arc<dyn Image>,
) -> Result<(EngineKind, Engines<M>), BlockError> {
    let wanted = config.engine;
    let kinds: &[_] = match wanted {
        EngineKind::Auto => &[EngineKind::IoUring, EngineKind::Threads],
        ref one => std::slice::from_ref(one),
    };
    let mut failure = io::ErrorKind::Unsupported.into();
    for kind in kinds {
        match of(*kind, config, image) {
            Ok(engines) => return Ok((*kind, engines)),
            Err(cause) => failure = cause,
        }
    }
    let (id, engine) = (config.id.clone(), wanted.name());
    Err(BlockError::Engine { id, engine, cause: failure })
}

fn of<M: Mem>(kind: EngineKind, config: &BlockConfig, image: &Arc<dyn Image>) -> io::Result<Engines<M>> {
    let pool = Arc::new(ThreadPool::new(format!("io-{}", config.id), image.clone(), THREADS));
    let one = |_| -> io::Result<Box<dyn Engine<M>>> {
        Ok(match kind {
            EngineKind::Sync => Box::new(SyncEngine::new(image.clone())),
            EngineKind::Threads => Box::new(ThreadEngine::new(pool.clone())?),
            EngineKind::Auto | EngineKind::IoUring => {
                let disk = image.clone().raw().ok_or(io::ErrorKind::Unsupported)?;
                Box::new(UringEngine::new(disk, config.queue_size)?)
            }
        })
    };
    (0..config.queues).map(one).collect()
}
