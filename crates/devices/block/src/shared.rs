use crate::Host;
use crate::config::SERIAL_LEN;
use crate::device::OnFailure;
use crate::request::{Request, SECTOR};
use crate::{BlockConfig, BlockCounters, Cache, OnIoError};
use drystone_limit::{LimitGroup, Limiter};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What the device, its workers and its handle share. No lock on the data path, unless there is a limit.
pub(crate) struct Shared {
    pub id: String,
    pub read_only: bool,
    pub serial: [u8; SERIAL_LEN],
    pub on_io_error: OnIoError,
    pub on_failure: OnFailure,
    /// Its own limit.
    pub limiter: Limiter,
    /// That of the group that it is in.
    group: Option<Limiter>,
    /// By queue.
    pub counters: Vec<BlockCounters>,
    /// For a queue that there is not, which nobody has.
    nobody: BlockCounters,
    sectors: AtomicU64,
    /// Nothing is behind it any more.
    pulled: AtomicBool,
    /// What it is when the driver has not said anything.
    pub cache: Cache,
    /// The `writeback` field of the configuration space.
    writeback: AtomicBool,
}

impl Shared {
    pub fn new(config: &BlockConfig, size: u64, host: Host) -> Self {
        let Host { clock, on_failure, group } = host;
        Self {
            id: config.id.clone(),
            read_only: config.read_only,
            serial: config.serial_bytes(),
            on_io_error: config.on_io_error,
            on_failure,
            limiter: Limiter::new(config.limit, clock),
            group: group.as_ref().map(LimitGroup::join),
            counters: (0..config.queues).map(|_| BlockCounters::default()).collect(),
            nobody: BlockCounters::default(),
            sectors: AtomicU64::new(size / SECTOR),
            pulled: AtomicBool::new(false),
            cache: config.cache,
            writeback: AtomicBool::new(config.cache == Cache::Writeback),
        }
    }

    /// What a request must pass: nothing if all of them fail anyway.
    pub fn limits(&self) -> impl Iterator<Item = &Limiter> {
        let there = !self.is_pulled();
        [Some(&self.limiter), self.group.as_ref()].into_iter().flatten().filter(move |_| there)
    }

    pub fn count(&self, queue: u16) -> &BlockCounters {
        self.counters.get(usize::from(queue)).unwrap_or(&self.nobody)
    }

    /// The size that the guest sees, in sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors.load(Ordering::Acquire)
    }
    pub fn set_sectors(&self, sectors: u64) {
        self.sectors.store(sectors, Ordering::Release);
    }
    pub fn is_pulled(&self) -> bool {
        self.pulled.load(Ordering::Acquire)
    }
    pub fn pull(&self) {
        self.pulled.store(true, Ordering::Release);
    }
    pub fn writeback(&self) -> bool {
        self.writeback.load(Ordering::Acquire)
    }
    pub fn set_writeback(&self, on: bool) {
        self.writeback.store(on, Ordering::Release);
    }

    /// Where on the disk `len` bytes from `sector` on begin, in bytes. `None` if they are not whole sectors of the disk, or
    /// more than `most`.
    pub fn place(&self, sector: u64, len: u64, most: u64) -> Option<u64> {
        let end = sector.checked_add(len / SECTOR)?;
        let good = len.is_multiple_of(SECTOR) && len <= most && end <= self.sectors();
        sector.checked_mul(SECTOR).filter(|_| good)
    }

    /// Whether a request that had a place before still has it.
    pub fn fits(&self, request: &Request) -> bool {
        let there = match request {
            Request::Read { offset, len }
            | Request::Write { offset, len }
            | Request::Discard { offset, len }
            | Request::WriteZeroes { offset, len, .. } => {
                self.place(offset / SECTOR, *len, u64::MAX).is_some()
            }
            Request::Flush | Request::GetId => true,
        };
        there && !self.is_pulled()
    }
}
