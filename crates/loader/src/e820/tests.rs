use super::*;
use MapKind::{Ram, Reserved};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn map(size: u64, reserved: &[Range<u64>]) -> Vec<(u64, u64, MapKind)> {
    let layout = Layout::new(size, 46).unwrap();
    let map = MemoryMap::new(&layout, reserved).unwrap();
    map.entries().iter().map(|e| (e.range.start, e.range.end, e.kind)).collect()
}

#[test]
fn small_ram_is_usable_but_for_the_end_of_the_first_mib() {
    let expected = [(0, 0x9fc00, Ram), (0x9fc00, 0x10_0000, Reserved), (0x10_0000, 512 * MIB, Ram)];
    assert_eq!(map(512 * MIB, &[]), expected);
}

#[test]
fn large_ram_continues_above_4_gib() {
    let map = map(6 * GIB, &[]);
    assert_eq!(map[2..], [(0x10_0000, 3 * GIB, Ram), (4 * GIB, 7 * GIB, Ram)]);
}

#[test]
fn reserved_ranges_are_listed_and_taken_out_of_ram() {
    let reserved = [0xe000_0000..0xf000_0000, 64 * MIB..65 * MIB, 511 * MIB..600 * MIB];
    assert_eq!(
        map(512 * MIB, &reserved)[2..],
        [
            (0x10_0000, 64 * MIB, Ram),
            (64 * MIB, 65 * MIB, Reserved),
            (65 * MIB, 511 * MIB, Ram),
            (511 * MIB, 600 * MIB, Reserved),
            (0xe000_0000, 0xf000_0000, Reserved),
        ]
    );
}

#[test]
fn reserved_ranges_may_overlap_each_other_and_ours() {
    let reserved =
        [0x9_0000..0xa_0000, 3 * MIB..5 * MIB, 4 * MIB..6 * MIB, 4 * MIB..5 * MIB, 6 * MIB..7 * MIB];
    assert_eq!(
        map(8 * MIB, &reserved),
        [
            (0, 0x9_0000, Ram),
            (0x9_0000, MIB, Reserved),
            (MIB, 3 * MIB, Ram),
            (3 * MIB, 7 * MIB, Reserved),
            (7 * MIB, 8 * MIB, Ram),
        ]
    );
}

#[test]
fn an_empty_range_and_too_many_are_refused() {
    let layout = Layout::new(512 * MIB, 46).unwrap();
    let try_one = |range: Range<u64>| MemoryMap::new(&layout, std::slice::from_ref(&range));
    assert_eq!(try_one(5..5), Err(BootParamsError::Range { start: 5, end: 5 }));
    assert_eq!(try_one(Range { start: 6, end: 5 }), Err(BootParamsError::Range { start: 6, end: 5 }));
    let ranges = |n: u64| (1..=n).map(|i| i * 2 * MIB..i * 2 * MIB + 4096).collect::<Vec<_>>();
    assert_eq!(MemoryMap::new(&layout, &ranges(62)).unwrap().entries().len(), 127);
    for n in [63, 128, 129, 100_000] {
        let error = MemoryMap::new(&layout, &ranges(n)).unwrap_err();
        assert!(matches!(error, BootParamsError::TooManyRanges { max: 128, .. }), "{error}");
    }
}
