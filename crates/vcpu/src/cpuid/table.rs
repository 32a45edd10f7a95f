//! Looking at a table of CPUID answers and changing it.

use super::bit::{Bit, Register};
use drystone_hypervisor::{Cpuid, CpuidEntry};
use std::collections::BTreeSet;

pub(super) fn register(entry: &CpuidEntry, register: Register) -> u32 {
    match register {
        Register::Eax => entry.eax,
        Register::Ebx => entry.ebx,
        Register::Ecx => entry.ecx,
        Register::Edx => entry.edx,
    }
}

pub(super) fn register_mut(entry: &mut CpuidEntry, register: Register) -> &mut u32 {
    match register {
        Register::Eax => &mut entry.eax,
        Register::Ebx => &mut entry.ebx,
        Register::Ecx => &mut entry.ecx,
        Register::Edx => &mut entry.edx,
    }
}

/// Whether the bit is set; what is absent is clear.
pub(super) fn has(cpuid: &Cpuid, bit: &Bit) -> bool {
    cpuid.get(bit.leaf, bit.subleaf).is_some_and(|e| register(e, bit.register) & bit.mask() != 0)
}

/// Clears the bit, and says whether it was set.
pub(super) fn clear(cpuid: &mut Cpuid, bit: &Bit) -> bool {
    let Some(entry) = cpuid.get_mut(bit.leaf, bit.subleaf) else { return false };
    let register = register_mut(entry, bit.register);
    let was = *register & bit.mask() != 0;
    *register &= !bit.mask();
    was
}

/// Sets or clears bits.
pub(super) fn set(register: &mut u32, bits: u32, on: bool) {
    if on {
        *register |= bits;
    } else {
        *register &= !bits;
    }
}

/// The highest leaf of the basic (`from` 0) or extended (`from` 0x8000_0000) range.
pub(super) fn max_leaf(cpuid: &Cpuid, from: u32) -> u32 {
    cpuid.get(from, 0).map_or(0, |e| e.eax)
}

/// Removes all entries of `leaf`: it answers zeros.
pub(super) fn remove(cpuid: &mut Cpuid, leaf: u32) {
    cpuid.0.retain(|e| e.leaf != leaf);
}

/// The same answers without entries that no question reaches because an earlier one answers it. Where a leaf has entries for some
/// subleaves and then one for all, what only that one answers is left out: no guest gets more for it.
pub(super) fn normal(cpuid: &Cpuid) -> Cpuid {
    let (mut kept, mut answered) = (Cpuid::default(), BTreeSet::new());
    for entry in &cpuid.0 {
        let reached = match entry.subleaf {
            // One for all subleaves before it answers, also if that was left out.
            _ if answered.contains(&entry.leaf) => false,
            Some(subleaf) => kept.get(entry.leaf, subleaf).is_none(),
            None => kept.0.iter().all(|e| e.leaf != entry.leaf),
        };
        if entry.subleaf.is_none() {
            answered.insert(entry.leaf);
        }
        if reached {
            kept.0.push(*entry);
        }
    }
    kept
}
