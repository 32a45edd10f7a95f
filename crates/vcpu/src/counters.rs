use std::sync::atomic::{AtomicU64, Ordering};

/// How often a vCPU left the guest, and why, since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExitCounts {
    /// IN accesses.
    pub pio_reads: u64,
    /// OUT accesses.
    pub pio_writes: u64,
    /// Loads from what is not RAM.
    pub mmio_reads: u64,
    /// Stores to what is not RAM.
    pub mmio_writes: u64,
    /// RDMSR of registers that are handed over.
    pub msr_reads: u64,
    /// WRMSR to registers that are handed over.
    pub msr_writes: u64,
    /// Kicks and signals.
    pub interrupted: u64,
    /// HLT without an interrupt controller.
    pub halted: u64,
    /// Triple faults.
    pub shutdown: u64,
    /// Runs that failed, and exits without an answer.
    pub faults: u64,
}

/// [`ExitCounts`] while they are counted. Any thread may read them; they wrap after 2^64.
#[derive(Debug, Default)]
pub(crate) struct ExitCounters {
    pub pio_reads: AtomicU64,
    pub pio_writes: AtomicU64,
    pub mmio_reads: AtomicU64,
    pub mmio_writes: AtomicU64,
    pub msr_reads: AtomicU64,
    pub msr_writes: AtomicU64,
    pub interrupted: AtomicU64,
    pub halted: AtomicU64,
    pub shutdown: AtomicU64,
    pub faults: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl ExitCounters {
    pub(crate) fn snapshot(&self) -> ExitCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ExitCounts {
            pio_reads: get(&self.pio_reads),
            pio_writes: get(&self.pio_writes),
            mmio_reads: get(&self.mmio_reads),
            mmio_writes: get(&self.mmio_writes),
            msr_reads: get(&self.msr_reads),
            msr_writes: get(&self.msr_writes),
            interrupted: get(&self.interrupted),
            halted: get(&self.halted),
            shutdown: get(&self.shutdown),
            faults: get(&self.faults),
        }
    }
}
