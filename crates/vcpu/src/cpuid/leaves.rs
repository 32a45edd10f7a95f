//! Whole leaves that a guest does not see, as data.

use super::baseline::Baseline;
use super::bit::Bit;
use super::feature::bit;
use super::table::{has, register_mut, remove};
use crate::cpuid::bit::Register;
use drystone_hypervisor::Cpuid;

/// Of the host only: 3 processor serial number, 5 MONITOR, 9 DCA, 0xA performance monitoring, 0xF and 0x10 resource control,
/// 0x12 SGX, 0x14 Processor Trace, 0x19 KEYLOCKER, 0x1A hybrid cores, 0x1B PCONFIG, 0x1C LBR, 0x23 performance
/// monitoring; 0x8000_001B IBS, 0x8000_001C LWP, 0x8000_001F and 0x8000_0023 memory encryption, 0x8000_0020 resource
/// control, 0x8000_0022 performance monitoring.
const HOST: &[u32] = &[
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

/// Registers with nothing for a guest beside a named feature in the same leaf: power management and hardware errors.
const CLEARED: &[(u32, &[Register])] = &[
    (6, &[Register::Ebx, Register::Ecx, Register::Edx]),
    (0x8000_0007, &[Register::Eax, Register::Ebx, Register::Ecx]),
];

/// Details of a feature, which mean nothing without it: AMX's tiles, AVX10's widths, APX, SVM's features.
const DETAILS: &[(u32, Bit)] = &[
    (0x1d, bit("amx_tile")),
    (0x1e, bit("amx_tile")),
    (0x24, bit("avx10")),
    (0x29, bit("apx_f")),
    (0x8000_000a, bit("svm")),
];

/// Bits of leaf 0x8000_0001 EDX that on AMD repeat those of leaf 1 EDX (AMD APM volume 3, appendix E.4.2).
const REPEATED: u32 = 0x0183_f3ff;

/// Takes away what is not for any guest under `baseline`.
pub(super) fn limit(cpuid: &mut Cpuid, baseline: Baseline) {
    cpuid.0.retain(|e| !HOST.contains(&e.leaf) && baseline.allows_leaf(e.leaf));
    for (leaf, registers) in CLEARED {
        for entry in cpuid.0.iter_mut().filter(|e| e.leaf == *leaf) {
            registers.iter().for_each(|r| *register_mut(entry, *r) = 0);
        }
    }
}

/// Takes away details of features that are gone.
pub(super) fn details(cpuid: &mut Cpuid) {
    for (leaf, feature) in DETAILS {
        if !has(cpuid, feature) {
            remove(cpuid, *leaf);
        }
    }
}

/// Bits of a register that say again what others say.
pub(super) fn repeated(leaf: u32, register: Register) -> u32 {
    if (leaf, register) == (0x8000_0001, Register::Edx) { REPEATED } else { 0 }
}

/// Makes repeated bits agree with what they repeat.
pub(super) fn repeat(cpuid: &mut Cpuid) {
    let first = cpuid.get(1, 0).map_or(0, |e| e.edx);
    if let Some(leaf) = cpuid.get_mut(0x8000_0001, 0) {
        leaf.edx &= first | !REPEATED;
    }
}

const KVM: u32 = 0x4000_0000;
const KVM_FEATURES: u32 = 0x4000_0001;
/// "KVMKVMKVM" in EBX, ECX, EDX.
const KVM_SIGNATURE: (u32, u32, u32) = (0x4b4d_564b, 0x564b_4d56, 0x4d);

/// Leaves of the hypervisor: KVM's signature and features where the host has them, and nothing else.
pub(super) fn hypervisor(cpuid: &mut Cpuid) {
    let signature = cpuid.get(KVM, 0).map(|e| (e.ebx, e.ecx, e.edx));
    let is_kvm = signature == Some(KVM_SIGNATURE);
    cpuid.0.retain(|e| e.leaf >> 28 != 4 || is_kvm && (e.leaf == KVM || e.leaf == KVM_FEATURES));
    if let Some(leaf) = cpuid.get_mut(KVM, 0) {
        leaf.eax = KVM_FEATURES;
    }
    if let Some(leaf) = cpuid.get_mut(KVM_FEATURES, 0) {
        // EDX has hints, which are not the host's to give: they say how this machine's vCPUs are scheduled.
        (leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0);
    }
}
