use super::MachineError;
use drystone_hypervisor::Cpuid;
use drystone_state::Schema;
use drystone_vcpu::cpuid::{Baseline, Comparison, CpuModel, GuestCpu};
use serde::{Deserialize, Serialize};

/// The hypervisor's own limit is lower; a table with more answers is none of ours.
const MAX_ENTRIES: usize = 1024;

/// What every vCPU answers to CPUID. It is a part of a saved machine: its guest has looked at it, and must go on seeing it, also
/// under a later version of this program that would answer otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedCpuid {
    /// By number, which is the local APIC ID.
    vcpus: Vec<(u32, Cpuid)>,
}

impl Schema for SavedCpuid {
    const KIND: &'static str = "cpuid";
    const VERSION: u32 = 1;
}

impl SavedCpuid {
    /// The part of a saved machine that it is.
    pub(super) const PART: &'static str = "cpuid";

    pub(super) fn of(cpu: &GuestCpu) -> Self {
        Self { vcpus: cpu.topology().apic_ids().map(|id| (id, cpu.for_vcpu(id))).collect() }
    }

    /// Checks that vCPUs of `model`'s topology on a host that offers `host` can be that.
    pub(super) fn on(self, host: &Cpuid, model: &CpuModel) -> Result<Self, MachineError> {
        let ids = self.vcpus.iter().map(|(id, _)| *id);
        if !ids.eq(model.topology.apic_ids())
            || self.vcpus.iter().any(|(_, table)| table.0.len() > MAX_ENTRIES)
        {
            return Err(MachineError::Restore(
                "the saved processors are not those of its configuration".into(),
            ));
        }
        // All that a guest could be given here.
        let mut widest = model.clone();
        widest.baseline = Baseline::Host;
        let widest = widest.on(host)?;
        let mut missing = Vec::new();
        for (id, table) in &self.vcpus {
            missing.extend(Comparison::of(table, &widest.for_vcpu(*id)).missing_on_second());
        }
        missing.sort();
        missing.dedup();
        if missing.is_empty() { Ok(self) } else { Err(MachineError::CpuLacks(missing)) }
    }

    /// Number and answers of each vCPU.
    pub(super) fn vcpus(&self) -> impl Iterator<Item = (u32, &Cpuid)> {
        self.vcpus.iter().map(|(id, table)| (*id, table))
    }

    /// How wide the guest's physical addresses are.
    pub(super) fn physical_address_bits(&self) -> u8 {
        self.vcpus.first().map_or(0, |(_, table)| table.physical_address_bits())
    }
}

#[cfg(test)]
mod tests;
