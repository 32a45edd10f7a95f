use super::*;
use crate::CapabilityError;
use drystone_bus::Effect;
use drystone_state::Persist;
use drystone_testkit::as_written;

const IDENTITY: Identity = Identity {
    vendor: 0x1234,
    device: 0x5678,
    revision: 9,
    class: Class { base: 1, sub: 2, interface: 3 },
    subsystem_vendor: 0xabcd,
    subsystem: 0xef01,
};
const MEMORY: u8 = 1 << 1;

fn bytes(space: &ConfigSpace, offset: u16, len: usize) -> Vec<u8> {
    let mut data = vec![0x55; len];
    space.read(offset, &mut data);
    data
}

#[test]
fn the_header_says_who_it_is_and_nobody_can_change_that() {
    let mut space = ConfigSpace::new(&IDENTITY);
    let header = bytes(&space, 0, 64);
    for offset in 0..CONFIG_SIZE {
        space.write(offset, &[0xff]);
    }
    let mut after = header.clone();
    (after[0x0c], after[0x3c]) = (0xff, 0xff);
    assert_eq!(bytes(&space, 0, 64), after, "only the two registers for software's notes");
    assert!(bytes(&space, 64, 4032).iter().all(|b| *b == 0));
    assert_eq!(header[..12], [0x34, 0x12, 0x78, 0x56, 0, 0, 0, 0, 9, 3, 2, 1]);
    assert_eq!(header[0x2c..0x30], [0xcd, 0xab, 0x01, 0xef]);
    assert_eq!((header[0x0e], header[0x34]), (0, 0), "type 0, one function, no capabilities");
}

#[test]
fn accesses_of_any_width_at_any_offset_are_sound() {
    let mut space = ConfigSpace::new(&IDENTITY);
    assert_eq!(bytes(&space, 1, 3), [0x12, 0x78, 0x56]);
    assert_eq!(bytes(&space, 0xffe, 8), [0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(bytes(&space, u16::MAX, 2), [0xff, 0xff]);
    space.write(0xffe, &[0xff; 8]);
    space.write(u16::MAX, &[0xff; 8]);
    assert_eq!((space.u16(0xfff), space.u32(u16::MAX)), (0, 0));
}

#[test]
fn bars_of_each_kind_are_sized_as_the_specification_says() {
    let mut space = ConfigSpace::new(&IDENTITY);
    space.add_bar(0, BarKind::Memory32, 0x1000).unwrap();
    space.add_bar(1, BarKind::Io, 0x20).unwrap();
    space.add_bar(2, BarKind::Memory64, 1 << 40).unwrap();
    space.add_bar(5, BarKind::Memory32, 16).unwrap();
    space.write(0x10, &[0xff; 24]);
    let sizes: Vec<u32> = (0..6).map(|i| space.u32(0x10 + 4 * i)).collect();
    assert_eq!(sizes, [0xffff_f000, 0xffff_ffe1, 0x0000_000c, 0xffff_ff00, 0, 0xffff_fff0]);
    space.write(0x10, &0xc123_4567_u32.to_le_bytes());
    assert_eq!((space.u32(0x10), space.address(0)), (0xc123_4000, Some(0xc123_4000)));
    assert_eq!((space.address(2), space.address(3), space.address(9)), (Some(0xffff_ff00 << 32), None, None));
}

#[test]
fn bars_that_cannot_be_are_refused_and_leave_nothing() {
    let mut space = ConfigSpace::new(&IDENTITY);
    space.add_bar(2, BarKind::Memory64, 0x1000).unwrap();
    let before = bytes(&space, 0, 64);
    let mut refuse = |index, kind, size| space.add_bar(index, kind, size).unwrap_err();
    for index in [2, 3, 1] {
        let kind = if index == 1 { BarKind::Memory64 } else { BarKind::Memory32 };
        assert_eq!(refuse(index, kind, 0x1000), BarError::Taken { index });
    }
    for (index, kind) in [(6, BarKind::Memory32), (5, BarKind::Memory64), (usize::MAX, BarKind::Io)] {
        assert_eq!(refuse(index, kind, 0x100), BarError::Index { index });
    }
    for (kind, size) in [
        (BarKind::Memory32, 0),
        (BarKind::Memory32, 8),
        (BarKind::Memory32, 0x1001),
        (BarKind::Memory32, 1 << 32),
        (BarKind::Memory64, 1 << 63),
        (BarKind::Io, 2),
        (BarKind::Io, 512),
    ] {
        assert!(matches!(refuse(0, kind, size), BarError::Size { .. }), "{kind:?} {size:#x}");
    }
    assert_eq!(bytes(&space, 0, 64), before);
}

#[test]
fn a_bar_is_claimed_only_while_its_space_is_enabled() {
    let mut space = ConfigSpace::new(&IDENTITY);
    space.add_bar(0, BarKind::Memory32, 0x1000).unwrap();
    space.add_bar(4, BarKind::Io, 0x10).unwrap();
    space.place(0, 0xc000_0fff);
    space.place(4, 0x1000);
    space.place(1, 0x1000);
    let claimed = |command: u8| {
        let mut space = space.clone();
        space.write(4, &[command, 0]);
        space.decoded().iter().map(|d| (d.index, d.base)).collect::<Vec<_>>()
    };
    assert_eq!(claimed(0), []);
    assert_eq!(claimed(1), [(4, 0x1000)]);
    assert_eq!(claimed(2), [(0, 0xc000_0000)]);
    assert_eq!(claimed(7), [(0, 0xc000_0000), (4, 0x1000)]);
    assert_eq!(bytes(&space, 0x14, 4), [0; 4], "there is no BAR 1 to place");
}

#[test]
fn only_spaces_that_a_function_has_can_be_enabled() {
    let mut space = ConfigSpace::new(&IDENTITY);
    space.write(4, &[0xff, 0xff]);
    assert_eq!((space.u16(4), space.bus_master()), (0, false));
    space.add_bar(0, BarKind::Memory32, 0x1000).unwrap();
    space.write(4, &[0xff, 0xff]);
    assert_eq!((space.u16(4), space.bus_master()), (0b110, true));
}

/// Follows a chain as software does: id and offset of each.
fn chain(space: &ConfigSpace) -> Vec<(u8, u8)> {
    let mut found = Vec::new();
    let mut at = bytes(space, 0x34, 1)[0];
    while at != 0 {
        assert!(at >= 0x40 && at.is_multiple_of(4) && found.len() < 48);
        let header = bytes(space, at.into(), 2);
        found.push((header[0], at));
        at = header[1];
    }
    found
}

fn extended_chain(space: &ConfigSpace) -> Vec<(u16, u16)> {
    let mut found = Vec::new();
    let mut at = 0x100;
    while at != 0 && space.u32(at) != 0 {
        found.push((space.u16(at), at));
        at = (space.u32(at) >> 20) as u16;
    }
    found
}

#[test]
fn capabilities_are_chained_and_masked() {
    let mut space = ConfigSpace::new(&IDENTITY);
    assert_eq!((chain(&space), extended_chain(&space)), (vec![], vec![]));
    let first = space.add_capability(0x09, &[1, 2, 3], &[0xff]).unwrap();
    let second = space.add_capability(0x11, &[0; 10], &[0, 0xc0]).unwrap();
    assert_eq!(chain(&space), [(0x09, 0x40), (0x11, 0x48)]);
    assert_eq!((first, second, space.u16(6) & 1 << 4), (0x40, 0x48, 1 << 4));
    space.write(0x40, &[0xff; 20]);
    assert_eq!(bytes(&space, 0x42, 3), [0xff, 2, 3]);
    assert_eq!(bytes(&space, 0x48, 12), [0x11, 0, 0, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0]);

    let serial = space.add_extended_capability(0x03, 1, &[1; 8], &[]).unwrap();
    let next = space.add_extended_capability(0x0b, 15, &[0; 4], &[0xff; 9]).unwrap();
    assert_eq!((serial, next), (0x100, 0x10c));
    assert_eq!(extended_chain(&space), [(0x03, 0x100), (0x0b, 0x10c)]);
    space.write(0x100, &[0xff; 24]);
    assert_eq!(bytes(&space, 0x104, 8), [1; 8]);
    assert_eq!((space.u32(0x10c), space.u32(0x110), space.u32(0x114)), (0x000f_000b, u32::MAX, 0));
}

#[test]
fn capabilities_that_do_not_fit_are_refused_and_leave_nothing() {
    let mut space = ConfigSpace::new(&IDENTITY);
    space.add_capability(5, &[0; 0xb0], &[]).unwrap();
    space.add_extended_capability(3, 1, &[0; 3800], &[]).unwrap();
    let before = bytes(&space, 0, 4096);
    assert_eq!(
        space.add_capability(9, &[0; 13], &[]),
        Err(CapabilityError::Full { id: 9, len: 15, left: 12 })
    );
    let full = space.add_extended_capability(4, 1, &[0; 100_000], &[]);
    assert!(matches!(full, Err(CapabilityError::Full { id: 4, .. })));
    let version = space.add_extended_capability(4, 16, &[], &[]);
    assert_eq!(version, Err(CapabilityError::Version { id: 4, version: 16 }));
    assert_eq!(bytes(&space, 0, 4096), before);
    assert!(space.add_capability(9, &[0; 10], &[]).is_ok());
}

#[test]
fn bits_that_the_device_sets_are_cleared_by_writing_one() {
    let mut space = ConfigSpace::new(&IDENTITY);
    space.clear_by_one(0x07, &[0xf0]);
    space.set(0x06, &[0x08, 0xff]);
    space.write(0x07, &[0x30]);
    assert_eq!(bytes(&space, 0x06, 2), [0x08, 0xcf]);
    space.write(0x07, &[0x0f]);
    assert_eq!(bytes(&space, 0x06, 2), [0x08, 0xcf]);
}

fn device() -> Config {
    let mut space = ConfigSpace::new(&IDENTITY);
    space.add_bar(0, BarKind::Memory64, 0x4000).unwrap();
    space.add_capability(0x09, &[0; 6], &[0, 0xff]).unwrap();
    space.place(0, 0x8000_0000);
    Config::new(space)
}

#[test]
fn a_write_tells_whether_the_function_claims_other_addresses() {
    let config = device();
    let at = |address: u32| address.to_le_bytes();
    assert_eq!(config.write(0x10, &at(0x9000_0000)), Effect::None, "not enabled");
    assert_eq!(config.write(0x04, &[MEMORY]), Effect::Relocate);
    assert_eq!(config.write(0x04, &[MEMORY]), Effect::None);
    assert_eq!(config.write(0x43, &[1]), Effect::None);
    assert_eq!(config.write(0x10, &at(0x9000_0008)), Effect::None, "below its size");
    assert_eq!(config.write(0x14, &[1]), Effect::Relocate);
    assert_eq!(config.with(|c| c.decoded()[0].base), 0x1_9000_0000);
    assert_eq!(config.write(0x04, &[0]), Effect::Relocate);
}

#[test]
fn state_survives_saving_and_a_reset_leads_back() {
    let config = device();
    let fresh = config.with(|c| c.clone());
    for (offset, value) in [(0x04, 6_u32), (0x10, 0xc000_0000), (0x3c, 0x0b), (0x40, u32::MAX)] {
        let _ = config.write(offset, &value.to_le_bytes());
    }
    let copy = device();
    copy.restore(as_written(&config.save().unwrap())).unwrap();
    assert_eq!(copy.with(|c| bytes(c, 0, 4096)), config.with(|c| bytes(c, 0, 4096)));
    config.reset();
    assert_eq!(config.with(|c| bytes(c, 0, 4096)), bytes(&fresh, 0, 4096));
    assert_eq!(config.with(|c| c.address(0)), Some(0x8000_0000));
}

#[test]
fn impossible_states_are_refused_whole() {
    let config = device();
    let _ = config.write(4, &[MEMORY]);
    let good = config.save().unwrap();
    type Change = fn(&mut Vec<(u16, u32)>);
    let change = |act: Change| {
        let mut state = good.clone();
        act(&mut state.registers);
        state
    };
    let bad = [
        change(|r| r.truncate(r.len() - 1)),
        change(|r| r.push((0x44, 0))),
        change(|r| r.reverse()),
        change(|r| r[0].0 = 0),
        change(|r| r.iter_mut().find(|(at, _)| *at == 0x10).unwrap().1 |= 1),
        change(|r| r.iter_mut().find(|(at, _)| *at == 0x04).unwrap().1 |= 1 << 16),
    ];
    let fresh = device();
    let before = fresh.save().unwrap();
    for state in bad {
        assert!(fresh.restore(state.clone()).is_err(), "{state:?}");
        assert_eq!(fresh.save().unwrap(), before);
    }
    fresh.restore(good).unwrap();
}
