//! What the vCPUs counted, as the control socket tells it.

use drystone_observe::{Observe, Visitor};
use drystone_vcpu::{ExitCounts, Histogram, VcpuSet};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Exits by kind.
fn kinds(counts: &ExitCounts) -> [(&'static str, u64); 10] {
    let ExitCounts {
        pio_reads,
        pio_writes,
        mmio_reads,
        mmio_writes,
        msr_reads,
        msr_writes,
        interrupted,
        halted,
        shutdown,
        faults,
        ..
    } = *counts;
    [
        ("pio_reads", pio_reads),
        ("pio_writes", pio_writes),
        ("mmio_reads", mmio_reads),
        ("mmio_writes", mmio_writes),
        ("msr_reads", msr_reads),
        ("msr_writes", msr_writes),
        ("interrupted", interrupted),
        ("halted", halted),
        ("shutdown", shutdown),
        ("faults", faults),
    ]
}

/// All vCPUs' exits by kind; kinds that never occurred are left out.
pub(super) fn counts(vcpus: &VcpuSet) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for counts in vcpus.ids().filter_map(|id| vcpus.counts(id)) {
        for (kind, n) in kinds(&counts).into_iter().filter(|(_, n)| *n > 0) {
            let sum: &mut u64 = sums.entry(kind.to_owned()).or_default();
            *sum = sum.wrapping_add(n);
        }
    }
    sums
}

/// Each vCPU's exits by name, under its number.
pub(super) struct Exits(pub Arc<VcpuSet>);

impl Observe for Exits {
    fn observe(&self, to: &mut Visitor<'_>) {
        for (id, counts) in self.0.ids().filter_map(|id| Some((id, self.0.counts(id)?))) {
            to.part(&id.to_string(), &Kinds(counts));
        }
    }
}

struct Kinds(ExitCounts);

impl Observe for Kinds {
    fn observe(&self, to: &mut Visitor<'_>) {
        for (kind, n) in kinds(&self.0) {
            to.count(kind, n);
        }
    }
}

/// For each kind of access, how often the guest waited less than so many nanoseconds for its answer (and not less than
/// half as many), over all vCPUs; kinds and classes that never occurred are left out.
pub(super) fn latency(vcpus: &VcpuSet) -> BTreeMap<String, BTreeMap<u64, u64>> {
    let mut sums: BTreeMap<&str, Histogram> = BTreeMap::new();
    for counts in vcpus.ids().filter_map(|id| vcpus.counts(id)) {
        let latency = counts.latency;
        for (kind, times) in [
            ("pio_reads", &latency.pio_reads),
            ("pio_writes", &latency.pio_writes),
            ("mmio_reads", &latency.mmio_reads),
            ("mmio_writes", &latency.mmio_writes),
            ("msr_reads", &latency.msr_reads),
            ("msr_writes", &latency.msr_writes),
        ] {
            sums.entry(kind).or_default().add(times);
        }
    }
    let some = sums.into_iter().filter(|(_, times)| times.count() > 0);
    some.map(|(kind, times)| (kind.to_owned(), times.classes().collect())).collect()
}
