//! The state that XSAVE manages (leaf 0xD), in agreement with the features that are left.
//!
//! A component's place in the standard format is fixed by the processor, so places stay and only the list and the sizes
//! change (Intel SDM volume 1, 13.2 to 13.4).

use super::bit::Bit;
use super::feature::bit;
use super::table::{has, remove};
use drystone_hypervisor::Cpuid;

const LEAF: u32 = 0xd;
/// x87 and SSE, which every processor with XSAVE has.
const LEGACY: u64 = 3;
/// Legacy region and header, in bytes: what is there always.
const FIXED_SIZE: u32 = 512 + 64;

const XSAVE: Bit = bit("xsave");

/// A state component, and the features of which any needs it.
struct Component {
    number: u32,
    features: &'static [Bit],
}

const fn component(number: u32, features: &'static [Bit]) -> Component {
    Component { number, features }
}

/// Switched by XCR0.
const USER: &[Component] = &[
    component(2, &[bit("avx")]),
    component(3, &[bit("mpx")]),
    component(4, &[bit("mpx")]),
    component(5, &[bit("avx512f")]),
    component(6, &[bit("avx512f")]),
    component(7, &[bit("avx512f")]),
    component(9, &[bit("pku")]),
    component(17, &[bit("amx_tile")]),
    component(18, &[bit("amx_tile")]),
    component(19, &[bit("apx_f")]),
];

/// Switched by IA32_XSS. All others that there are belong to the host: tracing, power, user interrupts.
const SUPERVISOR: &[Component] =
    &[component(11, &[bit("shstk"), bit("ibt")]), component(12, &[bit("shstk"), bit("ibt")])];

/// The components that can be switched, by XCR0 and by IA32_XSS.
fn masks(cpuid: &Cpuid) -> (u64, u64) {
    let wide = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let user = cpuid.get(LEAF, 0).map_or(0, |e| wide(e.eax, e.edx));
    (user, cpuid.get(LEAF, 1).map_or(0, |e| wide(e.ecx, e.edx)))
}

/// Drops the leaf if it answers all subleaves alike, which means nothing.
pub(super) fn normal(cpuid: &mut Cpuid) {
    if cpuid.0.iter().any(|e| e.leaf == LEAF && e.subleaf.is_none()) {
        remove(cpuid, LEAF);
    }
}

/// Features that are there without the state that they need.
pub(super) fn without_state(cpuid: &Cpuid) -> Vec<Bit> {
    let (user, supervisor) = masks(cpuid);
    let mut lost = Vec::new();
    let mut check = |mask: u64, components: &[Component]| {
        for Component { number, features } in components {
            let sized = cpuid.get(LEAF, *number).is_some_and(|e| e.eax != 0);
            if mask >> number & 1 == 0 || !sized {
                lost.extend(features.iter().filter(|f| has(cpuid, f)));
            }
        }
    };
    check(user, USER);
    check(supervisor, SUPERVISOR);
    if user & LEGACY != LEGACY && has(cpuid, &XSAVE) {
        lost.push(XSAVE);
    }
    lost
}

/// Takes away components that no feature needs any more; those that this code does not know go too unless
/// `unknown`. The sizes are what they are after a reset, when x87 alone is enabled; the hypervisor keeps them up to date.
pub(super) fn limit(cpuid: &mut Cpuid, unknown: bool) {
    if !has(cpuid, &XSAVE) {
        remove(cpuid, LEAF);
        return;
    }
    let (host_user, host_supervisor) = masks(cpuid);
    let known = USER.iter().fold(LEGACY, |mask, c| mask | 1 << c.number);
    let others = if unknown { !known } else { 0 };
    let user = host_user & (LEGACY | in_use(cpuid, USER) | others & with_size(cpuid));
    let supervisor = host_supervisor & in_use(cpuid, SUPERVISOR);
    cpuid.0.retain(|e| {
        let number = e.subleaf.unwrap_or_default();
        e.leaf != LEAF || number < 2 || (number < 64 && (user | supervisor) >> number & 1 == 1)
    });
    let ends =
        cpuid.0.iter().filter(|e| e.leaf == LEAF && e.subleaf.is_some_and(|n| n >= 2 && user >> n & 1 == 1));
    let size = ends.map(|e| e.eax.saturating_add(e.ebx)).fold(FIXED_SIZE, u32::max);
    let halves = |mask: u64| (mask as u32, (mask >> 32) as u32);
    if let Some(leaf) = cpuid.get_mut(LEAF, 0) {
        (leaf.eax, leaf.edx) = halves(user);
        (leaf.ebx, leaf.ecx) = (FIXED_SIZE, size);
    }
    if let Some(leaf) = cpuid.get_mut(LEAF, 1) {
        (leaf.ecx, leaf.edx) = halves(supervisor);
        leaf.ebx = if leaf.ebx == 0 { 0 } else { FIXED_SIZE };
    }
}

/// Components that a feature which is there needs.
fn in_use(cpuid: &Cpuid, components: &[Component]) -> u64 {
    let used = components.iter().filter(|c| c.features.iter().any(|f| has(cpuid, f)));
    used.fold(0, |mask, c| mask | 1 << c.number)
}

/// Components that have an entry of their own, which says where they are.
fn with_size(cpuid: &Cpuid) -> u64 {
    let numbers = cpuid.0.iter().filter(|e| e.leaf == LEAF && e.eax != 0).filter_map(|e| e.subleaf);
    numbers.filter(|n| (2..64).contains(n)).fold(0, |mask, n| mask | 1 << n)
}

/// Bytes that a guest's XSAVE area takes in the standard format at most; 0 without XSAVE.
pub(super) fn area_size(cpuid: &Cpuid) -> u32 {
    cpuid.get(LEAF, 0).map_or(0, |e| e.ecx)
}

/// The components that a guest can switch: user and supervisor.
pub(super) fn components(cpuid: &Cpuid) -> u64 {
    let (user, supervisor) = masks(cpuid);
    user | supervisor
}
