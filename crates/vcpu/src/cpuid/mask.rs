//! What is taken from a host's CPUID, as data.

use super::remove;
use drystone_hypervisor::Cpuid;

/// Bits of one entry that a guest does not see.
struct Clear {
    leaf: u32,
    subleaf: u32,
    eax: u32,
    ebx: u32,
    ecx: u32,
    edx: u32,
}

const NONE: Clear = Clear { leaf: 0, subleaf: 0, eax: 0, ebx: 0, ecx: 0, edx: 0 };

const fn bits<const N: usize>(numbers: [u32; N]) -> u32 {
    let mut value = 0;
    let mut rest = numbers.as_slice();
    while let [first, others @ ..] = rest {
        value |= 1 << *first;
        rest = others;
    }
    value
}

/// Host-only features, on every model.
const HOST_ONLY: &[Clear] = &[
    Clear {
        leaf: 1,
        // DTES64, MONITOR, DS-CPL, SMX, EIST, TM2, CNXT-ID, SDBG, xTPR, PDCM, DCA; OSXSAVE mirrors CR4.
        ecx: bits([2, 3, 4, 6, 7, 8, 10, 11, 14, 15, 18, 27]),
        // PSN, DS, ACPI (clock modulation), TM, PBE.
        edx: bits([18, 21, 22, 29, 31]),
        ..NONE
    },
    // All of power management but ARAT: the APIC timer does not stop.
    Clear { leaf: 6, eax: !bits([2]), ebx: !0, ecx: !0, edx: !0, ..NONE },
    Clear {
        leaf: 7,
        // SGX, cache monitoring and allocation, Processor Trace.
        ebx: bits([2, 12, 15, 25]),
        // OSPKE mirrors CR4; TME, KEYLOCKER, SGX-LC.
        ecx: bits([4, 13, 23, 30]),
        // SGX-KEYS, PCONFIG, architectural LBR, HYBRID.
        edx: bits([1, 15, 18, 19]),
        ..NONE
    },
    Clear {
        leaf: 0x8000_0001,
        // IBS, SKINIT, WDT, LWP, NodeId, core, north-bridge and cache counters, performance TSC, MONITORX, breakpoint masks.
        ecx: bits([10, 12, 13, 15, 19, 23, 24, 27, 28, 29, 30]),
        ..NONE
    },
    // Hardware error containment and power states; the invariant TSC stays.
    Clear { leaf: 0x8000_0007, eax: !0, ebx: !0, ecx: !0, edx: !bits([8]), ..NONE },
];

/// Leaves of which a guest sees nothing: 3 processor serial number, 5 MONITOR, 9 DCA, 0xA performance
/// monitoring, 0xF and 0x10 resource control, 0x12 SGX, 0x14 Processor Trace, 0x19 KEYLOCKER, 0x1A hybrid cores, 0x1B PCONFIG,
/// 0x1C LBR, 0x23 performance monitoring; 0x8000_001B IBS, 0x8000_001C LWP, 0x8000_001F and 0x8000_0023 memory encryption,
/// 0x8000_0020 resource control, 0x8000_0022 performance monitoring.
const REMOVED: &[u32] = &[
    3,
    5,
    9,
    0xa,
    0xf,
    0x10,
    0x12,
    0x14,
    0x19,
    0x1a,
    0x1b,
    0x1c,
    0x23,
    0x8000_001b,
    0x8000_001c,
    0x8000_001f,
    0x8000_0020,
    0x8000_0022,
    0x8000_0023,
];

/// VMX, and SVM with its details.
const NESTED: &[Clear] =
    &[Clear { leaf: 1, ecx: bits([5]), ..NONE }, Clear { leaf: 0x8000_0001, ecx: bits([2]), ..NONE }];
const NESTED_REMOVED: &[u32] = &[0x8000_000a];

pub(super) fn apply(cpuid: &mut Cpuid) {
    clear(cpuid, HOST_ONLY, REMOVED);
}

pub(super) fn apply_nested(cpuid: &mut Cpuid) {
    clear(cpuid, NESTED, NESTED_REMOVED);
}

fn clear(cpuid: &mut Cpuid, masks: &[Clear], leaves: &[u32]) {
    for mask in masks {
        if let Some(entry) = cpuid.get_mut(mask.leaf, mask.subleaf) {
            entry.eax &= !mask.eax;
            entry.ebx &= !mask.ebx;
            entry.ecx &= !mask.ecx;
            entry.edx &= !mask.edx;
        }
    }
    for leaf in leaves {
        remove(cpuid, *leaf);
    }
}
