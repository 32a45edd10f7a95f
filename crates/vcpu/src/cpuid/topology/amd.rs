//! AMD's own leaves about topology and caches (APM volume 3, appendix E.3 and E.4).

mod caches;

use super::Topology;
use crate::cpuid::{remove, set};
use drystone_hypervisor::{Cpuid, CpuidEntry};

/// 0x8000_0001 ECX.
const CMP_LEGACY: u32 = 1 << 1;
const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
const CACHES: u32 = 0x8000_001d;
const PLACE: u32 = 0x8000_001e;

/// Writes the place of the vCPU with APIC ID `id` into them.
pub(super) fn apply(cpuid: &mut Cpuid, topology: &Topology, id: u32) {
    if let Some(leaf) = cpuid.get_mut(0x8000_0008, 0) {
        // Threads less one, and the width of their field in an APIC ID.
        leaf.ecx = (topology.package_threads() - 1) | topology.package_bits() << 12;
    }
    let Some(leaf) = cpuid.get_mut(0x8000_0001, 0) else { return };
    set(&mut leaf.ecx, CMP_LEGACY, topology.package_threads() > 1);
    extend(cpuid);
    super::caches(cpuid, CACHES, topology, false);
    remove(cpuid, PLACE);
    cpuid.0.push(place(topology, id));
}

/// Gives the topology extensions where the host has none: they describe the machine and ask nothing of a processor, and without
/// them Linux takes an AMD processor's threads for cores, whatever leaf 0xB says.
fn extend(cpuid: &mut Cpuid) {
    if let Some(leaf) = cpuid.get_mut(0x8000_0000, 0) {
        leaf.eax = leaf.eax.max(PLACE);
    }
    if let Some(leaf) = cpuid.get_mut(0x8000_0001, 0) {
        leaf.ecx |= TOPOLOGY_EXTENSIONS;
    }
    // KVM gives zeros where its host has none.
    if cpuid.get(CACHES, 0).is_none_or(|first| first.eax == 0) {
        remove(cpuid, CACHES);
        let end = [0; 4];
        let described = caches::from_older_leaves(cpuid).into_iter().chain([end]);
        for (subleaf, [eax, ebx, ecx, edx]) in (0..).zip(described) {
            cpuid.0.push(CpuidEntry { leaf: CACHES, subleaf: Some(subleaf), eax, ebx, ecx, edx });
        }
    }
}

/// Core, threads on it, and the node, of which there is one a socket.
fn place(topology: &Topology, id: u32) -> CpuidEntry {
    let core = id >> topology.thread_bits() & ((1 << (topology.package_bits() - topology.thread_bits())) - 1);
    let node = id >> topology.package_bits();
    let ebx = core | (topology.threads - 1) << 8;
    CpuidEntry { leaf: PLACE, subleaf: None, eax: id, ebx, ecx: node, edx: 0 }
}
