use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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
    /// How long the guest waited for the answers to its accesses.
    pub latency: ExitLatency,
}

/// For each kind of access, how long the guest was out for it: from the exit's arrival in this process to the next entry.
/// An exit that brings several accesses (a string instruction) counts once. A [`VcpuSet`](crate::VcpuSet) measures it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)] // as in `ExitCounts`
pub struct ExitLatency {
    pub pio_reads: Histogram,
    pub pio_writes: Histogram,
    pub mmio_reads: Histogram,
    pub mmio_writes: Histogram,
    pub msr_reads: Histogram,
    pub msr_writes: Histogram,
}

/// How often something took how long, in classes that each reach twice as far as the one before.
///
/// Taking one time costs an exit two readings of the host's clock and one atomic addition. Measured in a loop of its own on a
/// busy virtual machine with software KVM that was 0.2 µs, where an exit alone takes 13 µs and more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Histogram([u64; CLASSES]);

/// The last class begins at 2.1 seconds.
const CLASSES: usize = 32;

impl Histogram {
    /// The classes with anything in them, shortest first: how often it took less than so many nanoseconds, and not less than
    /// half as many. The last class has no upper end, and is given as `u64::MAX`.
    pub fn classes(&self) -> impl Iterator<Item = (u64, u64)> {
        let below = |class: usize| if class + 1 < CLASSES { 2 << class } else { u64::MAX };
        self.0
            .iter()
            .enumerate()
            .filter(|&(_, &count)| count > 0)
            .map(move |(class, &count)| (below(class), count))
    }

    /// How many times were taken.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, &n| sum.wrapping_add(n))
    }

    /// What so many thousandths of all times were below, in nanoseconds; 0 if there are none.
    pub fn below(&self, thousandths: u16) -> u64 {
        let wanted = u128::from(self.count()) * u128::from(thousandths);
        let mut sum = 0;
        let mut classes = self.classes();
        let found = classes.find(|&(_, count)| {
            sum += u128::from(count) * 1000;
            sum >= wanted
        });
        found.map_or(0, |(below, _)| below)
    }

    /// Adds what `other` has.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, n)| *sum = sum.wrapping_add(n));
    }
}

/// A [`Histogram`] while it is filled.
#[derive(Debug, Default)]
pub(crate) struct Times([AtomicU64; CLASSES]);

impl Times {
    pub(crate) fn take(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let class = nanoseconds.checked_ilog2().unwrap_or(0) as usize;
        if let Some(class) = self.0.get(class).or(self.0.last()) {
            count(class);
        }
    }

    fn snapshot(&self) -> Histogram {
        Histogram(std::array::from_fn(|class| self.0.get(class).map_or(0, |n| n.load(Ordering::Relaxed))))
    }
}

/// The accesses of one kind while they are counted.
#[derive(Debug, Default)]
pub(crate) struct Accesses {
    pub count: AtomicU64,
    pub times: Times,
}

/// What kind of access it was.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    PioRead,
    PioWrite,
    MmioRead,
    MmioWrite,
    MsrRead,
    MsrWrite,
}

/// [`ExitCounts`] while they are counted. Any thread may read them; they wrap after 2^64.
#[derive(Debug, Default)]
pub(crate) struct ExitCounters {
    pio_reads: Accesses,
    pio_writes: Accesses,
    mmio_reads: Accesses,
    mmio_writes: Accesses,
    msr_reads: Accesses,
    msr_writes: Accesses,
    pub interrupted: AtomicU64,
    pub halted: AtomicU64,
    pub shutdown: AtomicU64,
    pub faults: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl ExitCounters {
    pub(crate) fn of(&self, kind: Kind) -> &Accesses {
        match kind {
            Kind::PioRead => &self.pio_reads,
            Kind::PioWrite => &self.pio_writes,
            Kind::MmioRead => &self.mmio_reads,
            Kind::MmioWrite => &self.mmio_writes,
            Kind::MsrRead => &self.msr_reads,
            Kind::MsrWrite => &self.msr_writes,
        }
    }

    pub(crate) fn snapshot(&self) -> ExitCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let latency = ExitLatency {
            pio_reads: self.pio_reads.times.snapshot(),
            pio_writes: self.pio_writes.times.snapshot(),
            mmio_reads: self.mmio_reads.times.snapshot(),
            mmio_writes: self.mmio_writes.times.snapshot(),
            msr_reads: self.msr_reads.times.snapshot(),
            msr_writes: self.msr_writes.times.snapshot(),
        };
        ExitCounts {
            pio_reads: get(&self.pio_reads.count),
            pio_writes: get(&self.pio_writes.count),
            mmio_reads: get(&self.mmio_reads.count),
            mmio_writes: get(&self.mmio_writes.count),
            msr_reads: get(&self.msr_reads.count),
            msr_writes: get(&self.msr_writes.count),
            interrupted: get(&self.interrupted),
            halted: get(&self.halted),
            shutdown: get(&self.shutdown),
            faults: get(&self.faults),
            latency,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(times: &[u64]) -> Histogram {
        let taken = Times::default();
        times.iter().for_each(|&t| taken.take(Duration::from_nanos(t)));
        taken.snapshot()
    }

    #[test]
    fn a_time_is_in_the_class_that_ends_above_it() {
        let classes: Vec<_> = histogram(&[0, 1, 2, 3, 4, 1023, 1024, u64::MAX]).classes().collect();
        assert_eq!(classes, [(2, 2), (4, 2), (8, 1), (1024, 1), (2048, 1), (u64::MAX, 1)]);
        let longest = Times::default();
        longest.take(Duration::MAX);
        assert_eq!(longest.snapshot().classes().collect::<Vec<_>>(), [(u64::MAX, 1)]);
    }

    #[test]
    fn a_share_of_all_times_is_below_a_bound() {
        let mut times = histogram(&[100; 98]);
        times.add(&histogram(&[1000, 100_000]));
        assert_eq!((times.count(), times.below(500), times.below(980)), (100, 128, 128));
        assert_eq!((times.below(990), times.below(1000)), (1024, 131_072));
        assert_eq!(histogram(&[]).below(500), 0);
    }
}
