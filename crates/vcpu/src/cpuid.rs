//! What a virtual CPU answers to CPUID: the host's answers, filtered, with the guest's own topology.
//!
//! Sources: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; the kernel's `Documentation/virt/kvm/x86/cpuid.rst`.

use drystone_hypervisor::Cpuid;

mod mask;
mod topology;

pub use topology::{Topology, TopologyError};

/// The kind of processor that a guest sees, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CpuModel {
    /// How vCPUs are grouped into cores and sockets.
    pub topology: Topology,
    /// The local APIC timer has a TSC-deadline mode. It does when the hypervisor emulates the local APIC.
    pub tsc_deadline: bool,
    /// VMX or SVM, where the host offers it to guests. The default is no: what a nested guest holds is not part of a
    /// saved machine.
    pub nested: bool,
}

impl CpuModel {
    /// `vcpus` processors: one socket of that many cores with one thread each.
    ///
    /// # Errors
    /// [`TopologyError`] for none or too many.
    pub fn new(vcpus: u32) -> Result<Self, TopologyError> {
        Ok(Self::with_topology(Topology::new(1, vcpus, 1)?))
    }

    /// As many processors as `topology` has.
    pub fn with_topology(topology: Topology) -> Self {
        Self { topology, tsc_deadline: true, nested: false }
    }

    /// All answers of the vCPU with number (local APIC ID) `id`, one of
    /// [`Topology::apic_ids`], on a host that can offer `host`.
    ///
    /// Kept are the instruction set, family and brand, caches, address sizes, and the hypervisor's own leaves
    /// (`0x4000_0000` to `0x4000_00ff`) as the host gives them. Replaced is the topology. Removed is what only makes sense on the
    /// host: power and thermal management, MONITOR, performance monitoring, tracing, resource control, SGX, memory
    /// encryption. Bits that mirror a control register (OSXSAVE, OSPKE) are clear: the hypervisor maintains them.
    pub fn for_vcpu(&self, host: &Cpuid, id: u32) -> Cpuid {
        let mut cpuid = host.clone();
        let vendor = Vendor::of(host);
        mask::apply(&mut cpuid);
        if !self.nested {
            mask::apply_nested(&mut cpuid);
        }
        if let Some(leaf) = cpuid.get_mut(1, 0) {
            leaf.ecx |= HYPERVISOR;
            set(&mut leaf.ecx, TSC_DEADLINE, self.tsc_deadline);
        }
        topology::apply(&mut cpuid, vendor, &self.topology, id);
        cpuid
    }
}

/// Leaf 1 ECX: running under a hypervisor.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 ECX: the local APIC timer's TSC-deadline mode.
const TSC_DEADLINE: u32 = 1 << 24;

fn set(register: &mut u32, bits: u32, on: bool) {
    if on {
        *register |= bits;
    } else {
        *register &= !bits;
    }
}

/// Whose conventions a processor follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vendor {
    /// AMD, and Hygon, which is derived from it.
    Amd,
    /// Intel, and those who follow it (Centaur, Zhaoxin).
    Intel,
}

impl Vendor {
    fn of(cpuid: &Cpuid) -> Self {
        match cpuid.get(0, 0).map(|e| (e.ebx, e.edx, e.ecx)) {
            // The twelve letters in EBX, EDX, ECX.
            Some((0x6874_7541, 0x6974_6e65, 0x444d_4163)) => Self::Amd, // AuthenticAMD
            Some((0x6f67_7948, 0x6e65_476e, 0x656e_6975)) => Self::Amd, // HygonGenuine
            _ => Self::Intel,
        }
    }
}

/// The highest leaf of the basic (`from` 0) or extended (`from` 0x8000_0000) range.
fn max_leaf(cpuid: &Cpuid, from: u32) -> u32 {
    cpuid.get(from, 0).map_or(0, |e| e.eax)
}

/// Removes all entries of `leaf`: it answers zeros.
fn remove(cpuid: &mut Cpuid, leaf: u32) {
    cpuid.0.retain(|e| e.leaf != leaf);
}

#[cfg(test)]
mod tests;
