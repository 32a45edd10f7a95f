use super::*;
use crate::{Attachment, BarKind, Class, Config, ConfigSpace, Identity};
use drystone_bus::Bus;
use drystone_state::Component;
use std::sync::Mutex;

const WINDOW: Range<u64> = 0xc000_0000..0xc010_0000;
const HIGH: Range<u64> = 0x10_0000_0000..0x11_0000_0000;
const ECAM: u64 = 0xe000_0000;

/// Reads as its number; writes down where its BARs go.
struct Device {
    config: Config,
    id: u8,
    moves: Mutex<Vec<(usize, Option<u64>)>>,
}

impl Function for Device {
    fn config(&self) -> &Config {
        &self.config
    }
    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]) {
        data.fill(self.id + 16 * bar as u8 + offset as u8);
    }
    fn bar_write(&self, _: usize, _: u64, _: &[u8]) -> Effect {
        Effect::Reset
    }
    fn bar_moved(&self, bar: usize, base: Option<u64>) {
        self.moves.lock().unwrap().push((bar, base));
    }
}

fn device(id: u8, bars: &[(usize, BarKind, u64)]) -> Arc<Device> {
    let class = Class { base: 0xff, sub: 0, interface: 0 };
    let identity =
        Identity { vendor: 1, device: id.into(), revision: 0, class, subsystem_vendor: 0, subsystem: 0 };
    let mut space = ConfigSpace::new(&identity);
    for (index, kind, size) in bars {
        space.add_bar(*index, *kind, *size).unwrap();
    }
    Arc::new(Device { config: Config::new(space), id, moves: Mutex::default() })
}

struct Machine {
    bus: Arc<Bus>,
    segment: Arc<Segment>,
    attachment: Attachment,
}

fn machine() -> Machine {
    let windows = Windows { memory_32: WINDOW, memory_64: HIGH, io: 0x1000..0x2000 };
    let segment = Arc::new(Segment::new(0, windows, Arc::new(HostBridge::new())).unwrap());
    let bus = Arc::new(Bus::default());
    let attachment = Attachment::new(segment.clone(), bus.clone(), ECAM).unwrap();
    Machine { bus, segment, attachment }
}

impl Machine {
    fn read(&self, addr: u64) -> u8 {
        let mut data = [0x55];
        self.bus.mmio.read(addr, &mut data);
        data[0]
    }
    fn config(&self, slot: u8, register: u64) -> u32 {
        let mut data = [0x55; 4];
        self.bus.mmio.read(ECAM + (u64::from(slot) << 15) + register, &mut data);
        u32::from_le_bytes(data)
    }
    /// As a vCPU does it.
    fn set_config(&self, slot: u8, register: u64, value: u32) {
        let at = ECAM + (u64::from(slot) << 15) + register;
        if self.bus.mmio.write(at, &value.to_le_bytes()) == Effect::Relocate {
            self.bus.relocate();
        }
    }
}

#[test]
fn the_bridge_is_there_and_nothing_else() {
    let m = machine();
    assert_eq!(m.config(0, 0), 0x0008_1b36);
    assert_eq!(m.config(0, 8) >> 8, 0x06_0000);
    let mut all = vec![0; 4096];
    for offset in (4096..Segment::ECAM_LEN).step_by(4096) {
        m.segment.read(offset, &mut all);
        assert!(all.iter().all(|b| *b == 0xff), "{offset:#x}");
        assert_eq!(m.segment.write(offset, &[0; 4]), Effect::None);
    }
}

#[test]
fn an_access_across_two_functions_or_past_the_end_is_nobodys() {
    let m = machine();
    m.segment.add(Some(1), device(1, &[])).unwrap();
    for offset in [0xffd, 0x8ffe, Segment::ECAM_LEN - 1, Segment::ECAM_LEN, u64::MAX - 1, u64::MAX] {
        let mut data = [0; 8];
        m.segment.read(offset, &mut data);
        assert_eq!(data, [0xff; 8], "{offset:#x}");
        assert_eq!(m.segment.write(offset, &data), Effect::None);
    }
}

#[test]
fn slots_are_taken_in_order_and_given_back() {
    let m = machine();
    assert_eq!(m.segment.add(None, device(1, &[])), Ok(1));
    assert_eq!(m.segment.add(Some(3), device(3, &[])), Ok(3));
    assert_eq!(m.segment.add(Some(3), device(4, &[])), Err(SlotError::Taken(3)));
    assert_eq!(m.segment.add(Some(32), device(4, &[])), Err(SlotError::Number(32)));
    assert_eq!(m.segment.add(None, device(2, &[])), Ok(2));
    for slot in 4..32 {
        assert_eq!(m.segment.add(None, device(slot, &[])), Ok(slot));
    }
    assert_eq!(m.segment.add(None, device(1, &[])), Err(SlotError::Full));
    assert_eq!(m.config(3, 0), 0x0003_0001);
    assert!(m.segment.remove(3).is_some() && m.segment.remove(3).is_none() && m.segment.remove(32).is_none());
    assert_eq!(m.config(3, 0), u32::MAX);
    assert_eq!(m.segment.add(None, device(9, &[])), Ok(3));
}

#[test]
fn bars_get_places_that_nobody_has() {
    let m = machine();
    let bars = [(0, BarKind::Memory32, 0x20), (1, BarKind::Memory64, 0x8000), (4, BarKind::Io, 0x40)];
    m.segment.add(None, device(1, &bars)).unwrap();
    // Until the guest uses them they answer nothing, and are nobody else's nevertheless.
    m.segment.add(None, device(2, &bars)).unwrap();
    let places = |slot| {
        let function = m.segment.function(slot).unwrap();
        function.config().with(|c| [0, 1, 4].map(|i| c.address(i).unwrap()))
    };
    assert_eq!(places(1), [0xc000_0000, 0x10_0000_0000, 0x1000]);
    assert_eq!(places(2), [0xc000_1000, 0x10_0000_8000, 0x1040]);
    assert_eq!(m.read(0xc000_0000), 0xff);
    let large = device(3, &[(0, BarKind::Memory32, 0x1000), (1, BarKind::Memory32, 0x10_0000)]);
    let full = Err(SlotError::NoRoom { slot: 3, bar: 1, size: 0x10_0000 });
    assert_eq!(m.segment.add(None, large.clone()), full);
    assert_eq!(large.config.with(|c| c.address(0)), Some(0), "nothing is placed");
    m.segment.remove(1);
    m.segment.add(None, device(4, &bars)).unwrap();
    assert_eq!(places(1), [0xc000_0000, 0x10_0000_0000, 0x1000]);
}

/// The guest has moved a BAR away: its place is not given to another, which a reset would bring onto the same address.
#[test]
fn where_a_reset_leads_back_to_stays_taken() {
    let m = machine();
    let bar = [(0, BarKind::Memory32, 0x1000)];
    m.segment.add(None, device(1, &bar)).unwrap();
    m.set_config(1, 0x10, 0xc000_5000);
    m.segment.add(None, device(2, &bar)).unwrap();
    let address = |slot| m.segment.function(slot).unwrap().config().with(|c| c.address(0).unwrap());
    assert_eq!((address(1), address(2)), (0xc000_5000, 0xc000_1000));
    [1, 2].into_iter().for_each(|slot| m.segment.function(slot).unwrap().config().reset());
    assert_eq!((address(1), address(2)), (0xc000_0000, 0xc000_1000));
}

#[test]
fn what_was_saved_needs_no_room_until_its_state_says_where_it_is() {
    let m = machine();
    let pages = |n: u64| [(0, BarKind::Memory32, 0x1000 * n)];
    // The window is 256 pages.
    m.segment.add(Some(2), device(2, &pages(128))).unwrap();
    m.segment.add(Some(3), device(3, &pages(64))).unwrap();
    m.segment.add(Some(4), device(4, &pages(64))).unwrap();
    let full = device(1, &pages(1));
    assert_eq!(
        m.segment.add(Some(1), full.clone()),
        Err(SlotError::NoRoom { slot: 1, bar: 0, size: 0x1000 })
    );
    m.segment.add_saved(1, full.clone()).unwrap();
    assert_eq!(full.config.with(|c| c.address(0)), Some(0), "the guest finds a place");
    assert_eq!(m.segment.add_saved(1, full.clone()), Err(SlotError::Taken(1)));
    assert_eq!(m.segment.add_saved(32, full), Err(SlotError::Number(32)));
}

#[test]
fn the_guest_moves_bars_and_the_bus_follows() {
    let m = machine();
    let one = device(1, &[(0, BarKind::Memory64, 0x1000), (2, BarKind::Memory32, 0x1000)]);
    m.segment.add(None, one.clone()).unwrap();
    m.set_config(1, 4, 2);
    assert_eq!((m.read(0x10_0000_0000), m.read(0xc000_0003)), (1, 1 + 32 + 3));
    // Across 4 GiB, one half after the other.
    m.set_config(1, 0x14, 0);
    m.set_config(1, 0x10, 0xc000_8000);
    assert_eq!((m.read(0x10_0000_0000), m.read(0xc000_8000)), (0xff, 1));
    m.set_config(1, 4, 0);
    assert_eq!((m.read(0xc000_8000), m.read(0xc000_0000)), (0xff, 0xff));
    let moves = [
        (0, Some(0x10_0000_0000)),
        (2, Some(0xc000_0000)),
        (0, None),
        (0, Some(0xc000_8000)),
        (2, None),
        (0, None),
    ];
    assert_eq!(*one.moves.lock().unwrap(), moves);
}

#[test]
fn bars_that_meet_or_leave_the_windows_are_contained() {
    let m = machine();
    let bar = [(0, BarKind::Memory32, 0x1000)];
    let (one, two) = (device(1, &bar), device(2, &bar));
    m.segment.add(None, one).unwrap();
    m.segment.add(None, two).unwrap();
    m.set_config(1, 4, 2);
    m.set_config(2, 4, 2);
    assert_eq!((m.read(0xc000_0000), m.read(0xc000_1000)), (1, 2));
    // The lower slot wins, whoever came first.
    m.set_config(1, 0x10, 0xc000_1000);
    assert_eq!((m.read(0xc000_0000), m.read(0xc000_1000)), (0xff, 1));
    m.set_config(1, 0x10, 0xc000_0000);
    assert_eq!((m.read(0xc000_0000), m.read(0xc000_1000)), (1, 2));
    m.set_config(2, 0x10, 0xc000_0000);
    assert_eq!((m.read(0xc000_0000), m.read(0xc000_1000)), (1, 0xff));
    // On RAM, ECAM, and at both ends of the window.
    for base in [0, 0x10_0000, ECAM as u32, 0xbfff_f000, 0xc010_0000, 0xffff_f000] {
        m.set_config(2, 0x10, base);
        assert_eq!(m.read(u64::from(base)), if base == ECAM as u32 { 0x36 } else { 0xff }, "{base:#x}");
    }
    m.set_config(2, 0x10, 0xc00f_f000);
    assert_eq!(m.read(0xc00f_f000), 2);
}

#[test]
fn a_bar_where_another_device_is_waits_until_that_is_gone() {
    let m = machine();
    struct Foreign;
    impl BusDevice for Foreign {
        fn read(&self, _: u64, data: &mut [u8]) {
            data.fill(0x77);
        }
        fn write(&self, _: u64, _: &[u8]) -> Effect {
            Effect::None
        }
    }
    m.bus.mmio.insert(0xc000_0800, 16, Arc::new(Foreign)).unwrap();
    m.segment.add(None, device(1, &[(0, BarKind::Memory32, 0x1000)])).unwrap();
    m.set_config(1, 4, 2);
    assert_eq!((m.read(0xc000_0000), m.read(0xc000_0800)), (0xff, 0x77));
    m.bus.mmio.remove(0xc000_0800);
    m.segment.relocate(&m.bus);
    assert_eq!(m.read(0xc000_0800), 1);
}

#[test]
fn ports_and_memory_are_two_spaces() {
    let m = machine();
    m.segment.add(None, device(1, &[(0, BarKind::Io, 0x20)])).unwrap();
    m.set_config(1, 4, 1);
    let mut data = [0];
    m.bus.pio.read(0x1000, &mut data);
    assert_eq!((data, m.read(0x1000)), ([1], 0xff));
    assert_eq!(m.bus.pio.write(0x101f, &[0]), Effect::Reset);
    m.set_config(1, 0x10, 0x1_1000);
    m.bus.pio.read(0x1000, &mut data);
    assert_eq!(data, [0xff], "not a port");
}

#[test]
fn a_removed_function_answers_nobody_and_its_place_is_free() {
    let m = machine();
    let bar = [(0, BarKind::Memory32, 0x1000)];
    let old = device(1, &bar);
    m.segment.add(None, old.clone()).unwrap();
    m.set_config(1, 4, 2);
    m.segment.remove(1);
    m.segment.relocate(&m.bus);
    assert_eq!((m.read(0xc000_0000), m.config(1, 0)), (0xff, u32::MAX));
    assert_eq!(old.moves.lock().unwrap().last(), Some(&(0, None)));
    m.segment.add(None, device(2, &bar)).unwrap();
    m.set_config(1, 4, 2);
    assert_eq!(m.read(0xc000_0000), 2);
    drop(m);
    assert_eq!(Arc::strong_count(&old), 1, "nobody keeps it");
}

#[test]
fn after_a_reset_bars_are_where_they_were_placed_and_off() {
    let m = machine();
    let one = device(1, &[(0, BarKind::Memory32, 0x1000)]);
    m.segment.add(None, one.clone()).unwrap();
    m.set_config(1, 0x10, 0xc000_8000);
    m.set_config(1, 4, 2);
    assert_eq!(m.read(0xc000_8000), 1);
    one.config.reset();
    m.attachment.resume().unwrap();
    assert_eq!((m.read(0xc000_8000), m.config(1, 0x10), m.config(1, 4)), (0xff, 0xc000_0000, 0));
}

#[test]
fn two_vcpus_that_move_bars_at_once_end_in_agreement() {
    let m = machine();
    let bar = [(0, BarKind::Memory32, 0x1000)];
    for id in 1..=4 {
        m.segment.add(None, device(id, &bar)).unwrap();
        m.set_config(id, 4, 2);
    }
    std::thread::scope(|threads| {
        for slot in 1..=4_u8 {
            let m = &m;
            threads.spawn(move || {
                for step in 0..500_u32 {
                    m.set_config(slot, 0x10, 0xc000_0000 + ((step * u32::from(slot)) % 16) * 0x1000);
                }
                m.set_config(slot, 0x10, 0xc000_0000 + u32::from(slot) * 0x1000);
            });
        }
    });
    for slot in 1..=4 {
        assert_eq!(m.read(0xc000_0000 + u64::from(slot) * 0x1000), slot);
    }
    assert_eq!((m.read(0xc000_0000), m.read(0xc000_5000)), (0xff, 0xff));
}

#[test]
fn segments_and_windows_that_make_no_sense_are_refused() {
    let new = |number, memory_32, memory_64| {
        Segment::new(number, Windows { memory_32, memory_64, io: 0..0 }, Arc::default()).err()
    };
    assert_eq!(new(0, 0..0, 0..0), None);
    assert_eq!(new(16, 0..0, 0..0), Some(SegmentError::Number(16)));
    let unaligned = WindowsError::Alignment { start: 1, end: 0x1000 };
    assert_eq!(new(0, 1..0x1000, 0..0), Some(unaligned.into()));
    let above = WindowsError::Above4Gib { start: 0, end: (1 << 32) + 0x1000 };
    assert_eq!(new(0, 0..(1 << 32) + 0x1000, 0..0), Some(above.into()));
    assert_eq!(new(0, 0..0x2000, 0x1000..0x3000), Some(WindowsError::Overlap.into()));
}
