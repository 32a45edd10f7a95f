//! Caches as leaf 0x8000_001D describes them (AMD APM volume 3, E.4.15), from the older leaves 0x8000_0005 and 0x8000_0006
//! (E.4.4).

use drystone_hypervisor::Cpuid;

const DATA: u32 = 1;
const CODE: u32 = 2;
const UNIFIED: u32 = 3;

/// EAX to EDX of a subleaf for each cache that there is, but for who shares it.
pub(super) fn from_older_leaves(cpuid: &Cpuid) -> Vec<[u32; 4]> {
    let first = cpuid.get(0x8000_0005, 0).copied().unwrap_or_default();
    let later = cpuid.get(0x8000_0006, 0).copied().unwrap_or_default();
    let level_1 = |register: u32| (register >> 24 << 10, register >> 16 & 0xff, register & 0xffff);
    let level_2 = (later.ecx >> 16 << 10, ways(later.ecx), later.ecx & 0xfff);
    let level_3 = (later.edx >> 18 << 19, ways(later.edx), later.edx & 0xfff);
    let caches = [
        (DATA, 1, level_1(first.ecx)),
        (CODE, 1, level_1(first.edx)),
        (UNIFIED, 2, level_2),
        (UNIFIED, 3, level_3),
    ];
    caches.into_iter().filter_map(|(kind, level, cache)| describe(kind, level, cache)).collect()
}

/// A cache of `size` bytes; `lines` has the lines a tag in bits from 8 on, and a line's bytes below. `None` if there is none.
fn describe(kind: u32, level: u32, (size, ways, lines): (u32, u32, u32)) -> Option<[u32; 4]> {
    const FULLY_ASSOCIATIVE: u32 = 1 << 9;
    let (line, partitions) = (lines & 0xff, (lines >> 8).max(1));
    let all = size.checked_div(line * partitions).filter(|all| *all > 0)?;
    let full = ways == FULL;
    let ways = if full { all } else { ways };
    let sets = all.checked_div(ways).filter(|sets| *sets > 0)?;
    let eax = kind | level << 5 | if full { FULLY_ASSOCIATIVE } else { 0 };
    let ebx = (line - 1) | (partitions - 1) << 12 | (ways - 1).min(0x3ff) << 22;
    Some([eax, ebx, sets - 1, 0])
}

/// A fully associative cache's ways, as the first level writes them.
const FULL: u32 = 0xff;

/// Ways of the second or third level, in bits 15:12.
fn ways(register: u32) -> u32 {
    match register >> 12 & 0xf {
        6 => 8,
        8 => 16,
        0xa => 32,
        0xb => 48,
        0xc => 64,
        0xd => 96,
        0xe => 128,
        0xf => FULL,
        // The number itself; 0 is no cache, and 9 refers to the very leaf that is missing.
        few @ 1..=5 => few,
        _ => 0,
    }
}
