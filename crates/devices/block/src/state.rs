use crate::Block;
use drystone_limit::LimiterState;
use drystone_memory::Mem;
use drystone_state::{Persist, RestoreError, SaveError, Schema};
use serde::{Deserialize, Serialize};

/// The saved state of a [`Block`]. The content of the disk is not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockState {
    /// The size that the guest knows, in sectors of 512 bytes.
    pub sectors: u64,
    /// What the driver has set in the configuration space: writes may stay in caches until they are flushed.
    pub writeback: bool,
    /// What the rate limits have saved up.
    pub limiter: LimiterState,
}

impl Schema for BlockState {
    const KIND: &'static str = "virtio.block";
    const VERSION: u32 = 1;
}

impl<M: Mem> Persist for Block<M> {
    type State = BlockState;

    fn save(&self) -> Result<BlockState, SaveError> {
        let shared = self.shared();
        Ok(BlockState {
            sectors: shared.sectors(),
            writeback: shared.writeback(),
            limiter: shared.limiter.save()?,
        })
    }

    /// The disk may have grown since: the guest is told when it runs. It must not have shrunk, unless it was pulled.
    fn restore(&self, state: BlockState) -> Result<(), RestoreError> {
        let BlockState { sectors, writeback, limiter } = state;
        let shared = self.shared();
        let now = if shared.is_pulled() { sectors } else { shared.sectors() };
        if sectors == 0 || sectors > now {
            let cause = format!("disk `{}` has {now} sectors, the saved one {sectors}", shared.id);
            return Err(RestoreError::Invalid { kind: BlockState::KIND, cause });
        }
        shared.limiter.restore(limiter)?;
        shared.set_writeback(writeback);
        if sectors < now {
            self.resize_later(now);
        }
        shared.set_sectors(sectors);
        Ok(())
    }
}
