use super::*;
use crate::{BarKind, Class, Config, ConfigSpace, HostBridge, Identity, Windows};
use drystone_bus::{Bus, ManualClock};
use drystone_state::{Component, Persist};
use drystone_testkit::as_written;
use std::sync::atomic::{AtomicU64, Ordering};

const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Count(AtomicU64);
impl Interrupt for Count {
    fn trigger(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
impl Count {
    fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

struct Device(Config);
impl Function for Device {
    fn config(&self) -> &Config {
        &self.0
    }
    fn bar_read(&self, _: usize, _: u64, data: &mut [u8]) {
        data.fill(7);
    }
    fn bar_write(&self, _: usize, _: u64, _: &[u8]) -> Effect {
        Effect::None
    }
    fn bar_moved(&self, _: usize, _: Option<u64>) {}
}

fn device() -> Arc<Device> {
    let class = Class { base: 0xff, sub: 0, interface: 0 };
    let mut space = ConfigSpace::new(&Identity {
        vendor: 1,
        device: 2,
        revision: 0,
        class,
        subsystem_vendor: 0,
        subsystem: 0,
    });
    space.add_bar(0, BarKind::Memory32, 0x1000).unwrap();
    Arc::new(Device(Config::new(space)))
}

struct Machine {
    bus: Bus,
    segment: Arc<Segment>,
    plug: HotPlug,
    guest: Arc<Count>,
    host: Arc<Count>,
    clock: Arc<ManualClock>,
}

fn machine() -> Machine {
    let windows = Windows { memory_32: 0xc000_0000..0xd000_0000, ..Windows::default() };
    let segment = Arc::new(Segment::new(0, windows, Arc::new(HostBridge::new())).unwrap());
    let bus = Bus::default();
    bus.add_relocator(segment.clone());
    let (guest, host) = (Arc::<Count>::default(), Arc::<Count>::default());
    let clock = Arc::new(ManualClock::new(Duration::ZERO));
    let plug = HotPlug::new(HotPlugParts {
        segment: segment.clone(),
        base: 0x620,
        guest: guest.clone(),
        host: host.clone(),
        clock: clock.clone(),
    });
    Machine { bus, segment, plug, guest, host, clock }
}

impl Machine {
    fn get(&self, offset: u64) -> u32 {
        let mut data = [0x55; 4];
        self.plug.read(offset, &mut data);
        u32::from_le_bytes(data)
    }
    /// As a vCPU does it.
    fn set(&self, offset: u64, value: u32) -> Effect {
        let effect = self.plug.write(offset, &value.to_le_bytes());
        if effect == Effect::Relocate {
            self.bus.relocate();
        }
        effect
    }
    /// What `PHPN` does: what changed, and what is asked for.
    fn dispatch(&self) -> (u32, u32) {
        let told = [0, 4].map(|offset| {
            let told = self.get(offset);
            let _ = self.set(offset, told);
            told
        });
        (told[0], told[1])
    }
    fn bar(&self) -> u8 {
        let mut data = [0];
        self.bus.mmio.read(0xc000_0000, &mut data);
        data[0]
    }
    /// Plugs a device, and uses it as a driver would.
    fn with_device() -> (Self, u8) {
        let m = machine();
        let slot = m.plug.plug(None, device()).unwrap();
        assert_eq!(m.dispatch(), (1 << slot, 0));
        let at = u64::from(slot) << 15 | 4;
        if m.segment.write(at, &[2]) == Effect::Relocate {
            m.bus.relocate();
        }
        assert_eq!((m.bar(), m.guest.take()), (7, 1));
        (m, slot)
    }
}

fn names(events: Vec<HotPlugEvent>) -> Vec<(&'static str, u8, bool)> {
    let name = |event| match event {
        HotPlugEvent::Ejected { slot, requested, .. } => ("ejected", slot, requested),
        HotPlugEvent::Overdue { slot } => ("overdue", slot, true),
    };
    events.into_iter().map(name).collect()
}

/// A guest must not take a new function for the one that was there before.
#[test]
fn the_slot_of_what_was_pulled_is_taken_until_the_guest_lets_go() {
    let m = machine();
    (1..SLOTS).for_each(|slot| assert_eq!(m.plug.plug(None, device()), Ok(slot)));
    m.plug.pull(2).unwrap();
    assert_eq!(m.plug.plug(None, device()), Err(SlotError::Full));
    m.dispatch();
    assert_eq!(m.plug.plug(Some(2), device()), Err(SlotError::Taken(2)), "told, and not done yet");
    let _ = m.set(12, 1 << 2);
    assert_eq!(m.plug.plug(None, device()), Ok(2));
}

#[test]
fn what_is_plugged_is_told_once() {
    let m = machine();
    assert_eq!((m.dispatch(), m.get(8)), ((0, 0), 0));
    assert_eq!(m.plug.plug(Some(5), device()), Ok(5));
    assert_eq!(m.plug.plug(None, device()), Ok(1));
    assert_eq!((m.guest.take(), m.get(8)), (2, 0b10_0010));
    assert_eq!((m.dispatch(), m.dispatch()), ((0b10_0010, 0), (0, 0)));
    assert_eq!(m.plug.plug(Some(5), device()), Err(SlotError::Taken(5)));
    assert_eq!((m.guest.take(), m.get(0)), (0, 0));
}

#[test]
fn what_happens_between_reading_and_acknowledging_is_not_lost() {
    let m = machine();
    m.plug.plug(Some(1), device()).unwrap();
    let told = m.get(0);
    m.plug.plug(Some(2), device()).unwrap();
    let _ = m.set(0, told);
    assert_eq!(m.dispatch(), (0b100, 0));

    m.plug.request(1, PATIENCE).unwrap();
    let asked = m.get(4);
    m.plug.request(2, PATIENCE).unwrap();
    let _ = m.set(4, asked);
    assert_eq!(m.dispatch(), (0, 0b100));
}

/// Nor does the guest hear later of what it has let go of already: it would let go of what came into the slot since.
#[test]
fn what_the_guest_lets_go_of_before_it_was_told_is_not_asked_for() {
    let (m, slot) = Machine::with_device();
    m.plug.request(slot, PATIENCE).unwrap();
    let _ = m.set(12, 1 << slot);
    assert_eq!(m.plug.plug(Some(slot), device()), Ok(slot));
    assert_eq!((m.dispatch(), m.plug.next_deadline()), ((1 << slot, 0), None));
}

/// ACPI 6.5, 5.6.6: 1 is a device check, 3 an eject request; 20.2.5.3 has the opcode.
#[test]
fn each_slot_is_told_what_changed_and_what_is_asked_for() {
    let notify = |slot: u8, value: &[u8]| [&b"\x86"[..], format!("SL{slot:02X}").as_bytes(), value].concat();
    for slot in 1..SLOTS {
        for wanted in [notify(slot, &[1]), notify(slot, &[0x0a, 3])] {
            let found = aml::SLOTS_AML.windows(wanted.len()).filter(|window| *window == wanted).count();
            assert_eq!(found, 1, "{slot}: {wanted:x?}");
        }
    }
}

#[test]
fn an_orderly_removal_asks_waits_and_hands_the_function_over() {
    let (m, slot) = Machine::with_device();
    m.plug.request(slot, PATIENCE).unwrap();
    assert_eq!(m.plug.request(slot, PATIENCE), Err(EjectError::Pending(slot)));
    assert_eq!((m.guest.take(), m.dispatch(), m.bar()), (1, (0, 1 << slot), 7));
    assert_eq!(m.plug.next_deadline(), Some(PATIENCE));
    assert!(names(m.plug.take()).is_empty());
    assert_eq!(m.set(12, 1 << slot), Effect::Relocate);
    assert_eq!((m.bar(), m.host.take(), m.get(8), m.plug.next_deadline()), (0xff, 1, 0, None));
    let events = m.plug.take();
    let HotPlugEvent::Ejected { function, .. } = &events[0] else { panic!("not ejected") };
    assert_eq!(Arc::strong_count(function), 1, "nobody else has it");
    assert_eq!(names(events), [("ejected", slot, true)]);
    m.clock.advance(PATIENCE);
    assert!(m.plug.take().is_empty());
}

#[test]
fn a_guest_that_never_answers_is_reported_once_and_may_be_asked_again() {
    let (m, slot) = Machine::with_device();
    m.plug.request(slot, PATIENCE).unwrap();
    m.clock.advance(PATIENCE - Duration::from_nanos(1));
    assert!(m.plug.take().is_empty());
    m.clock.advance(Duration::from_nanos(1));
    assert_eq!(names(m.plug.take()), [("overdue", slot, true)]);
    assert_eq!((names(m.plug.take()), m.plug.next_deadline(), m.bar()), (vec![], None, 7));
    m.plug.request(slot, PATIENCE).unwrap();
    assert_eq!(m.plug.next_deadline(), Some(2 * PATIENCE));
    // Late, and welcome nevertheless.
    m.clock.advance(PATIENCE);
    assert_eq!(names(m.plug.take()), [("overdue", slot, true)]);
    let _ = m.set(12, 1 << slot);
    assert_eq!((names(m.plug.take()), m.bar()), (vec![("ejected", slot, true)], 0xff));
}

#[test]
fn a_guest_may_eject_unasked_but_never_the_bridge() {
    let (m, slot) = Machine::with_device();
    assert_eq!(m.set(12, 1), Effect::None);
    assert_eq!(m.set(12, u32::MAX), Effect::Relocate);
    assert_eq!(names(m.plug.take()), [("ejected", slot, false)]);
    assert_eq!(m.set(12, u32::MAX), Effect::None, "there is nothing left");
    assert!(m.segment.function(0).is_some() && m.plug.take().is_empty());
}

/// A guest that was slow, and asked again before it was done: it ejects once for each notice that it took.
fn asked_twice() -> (Machine, u8) {
    let (m, slot) = Machine::with_device();
    for _ in 0..2 {
        m.plug.request(slot, PATIENCE).unwrap();
        assert_eq!(m.dispatch(), (0, 1 << slot));
        m.clock.advance(PATIENCE);
        assert_eq!(names(m.plug.take()), [("overdue", slot, true)]);
    }
    assert_eq!(m.set(12, 1 << slot), Effect::Relocate);
    assert_eq!(names(m.plug.take()), [("ejected", slot, true)]);
    (m, slot)
}

#[test]
fn a_guest_that_was_asked_twice_does_not_eject_what_came_since() {
    let (m, slot) = asked_twice();
    let next = m.plug.plug(None, device()).unwrap();
    assert_ne!(next, slot, "the guest will eject that slot once more");
    assert_eq!(m.set(12, 1 << slot), Effect::None);
    assert_eq!((names(m.plug.take()), m.get(8)), (vec![], 1 << next));
    assert_eq!(m.plug.plug(None, device()), Ok(slot), "the guest is done with it");
    assert_eq!(m.set(12, 1 << slot), Effect::Relocate, "and may eject it like any other");
}

#[test]
fn a_slot_that_the_guest_may_eject_is_the_last_to_be_filled_and_good_again_after_a_reset() {
    let (m, slot) = asked_twice();
    let saved = m.plug.save().unwrap();
    assert_eq!(saved.noticed, [(slot, 1)]);
    for free in (1..SLOTS).filter(|free| *free != slot) {
        assert_eq!(m.plug.plug(None, device()), Ok(free));
    }
    assert_eq!(m.plug.plug(None, device()), Ok(slot));
    assert_eq!(m.plug.plug(None, device()), Err(SlotError::Full));

    let new = machine();
    new.plug.restore(as_written(&saved)).unwrap();
    assert_ne!(new.plug.plug(None, device()), Ok(slot), "a restored machine knows it too");
    new.plug.reset().unwrap();
    assert_eq!(new.plug.save().unwrap().noticed, []);
    assert_eq!(new.plug.plug(None, device()), Ok(slot));
}

/// It read what it is told, ejected that meanwhile, and acknowledges: it will act on it nevertheless.
#[test]
fn what_is_acknowledged_late_is_a_notice_too_and_there_is_no_end_to_them() {
    let (m, slot) = Machine::with_device();
    m.plug.request(slot, PATIENCE).unwrap();
    let told = m.get(4);
    let _ = m.set(12, told);
    let _ = m.set(4, told);
    assert_ne!(m.plug.plug(None, device()), Ok(slot));
    for _ in 0..300 {
        let _ = m.set(4, u32::MAX);
    }
    let all: Vec<_> = (1..SLOTS).map(|slot| (slot, u8::MAX)).collect();
    assert!(names(m.plug.take()) == [("ejected", slot, true)] && m.plug.save().unwrap().noticed == all);
}

#[test]
fn what_is_pulled_answers_until_the_guest_lets_go_of_it() {
    let (m, slot) = Machine::with_device();
    for slot in [0, 9, 31, 32, 255] {
        assert_eq!(m.plug.pull(slot), Err(EjectError::Empty(slot)));
    }
    m.plug.pull(slot).unwrap();
    assert_eq!((m.guest.take(), m.dispatch(), m.bar(), m.get(8)), (1, (0, 1 << slot), 7, 1 << slot));
    m.clock.advance(PATIENCE);
    assert_eq!((names(m.plug.take()), m.plug.next_deadline()), (vec![], None), "nobody waits for it");
    // Whoever wants to wait for it asks again.
    m.plug.request(slot, PATIENCE).unwrap();
    assert_eq!((m.dispatch(), m.plug.next_deadline()), ((0, 1 << slot), Some(2 * PATIENCE)));
    let _ = m.set(12, 1 << slot);
    assert_eq!((m.bar(), names(m.plug.take())), (0xff, vec![("ejected", slot, true)]));
    assert_eq!(m.plug.pull(slot), Err(EjectError::Empty(slot)));
}

#[test]
fn what_was_asked_for_and_is_pulled_is_not_asked_for_twice() {
    let (m, slot) = Machine::with_device();
    m.plug.request(slot, PATIENCE).unwrap();
    assert_eq!((m.guest.take(), m.dispatch()), (1, (0, 1 << slot)));
    m.plug.pull(slot).unwrap();
    assert_eq!((m.guest.take(), m.dispatch(), m.plug.next_deadline()), (0, (0, 0), None));
    m.plug.pull(slot).unwrap();
    assert_eq!((m.guest.take(), m.dispatch()), (1, (0, 1 << slot)), "unless the host insists");
    // A reset gives it as well.
    m.plug.reset().unwrap();
    assert_eq!((names(m.plug.take()), m.get(8)), (vec![("ejected", slot, true)], 0));
}

#[test]
fn only_what_is_there_can_be_asked_for() {
    let m = machine();
    for slot in [0, 1, 31, 32, 255] {
        assert_eq!(m.plug.request(slot, PATIENCE), Err(EjectError::Empty(slot)));
    }
    assert_eq!((m.guest.take(), m.dispatch()), (0, (0, 0)));
}

#[test]
fn accesses_of_any_width_at_any_offset_are_sound() {
    let m = machine();
    m.plug.plug(Some(9), device()).unwrap();
    let mut data = [0; 8];
    m.plug.read(1, &mut data);
    assert_eq!(data, [2, 0, 0, 0, 0, 0, 0, 0]);
    m.plug.read(9, &mut data);
    assert_eq!(data, [2, 0, 0, 0, 0, 0, 0, 0xff]);
    m.plug.read(u64::MAX, &mut data);
    assert_eq!(data, [0xff; 8]);
    for offset in [8, 16, 17, u64::MAX - 1, u64::MAX] {
        assert_eq!(m.plug.write(offset, &[0xff; 4]), Effect::None, "{offset:#x}");
    }
    assert_eq!(m.plug.write(13, &[2]), Effect::Relocate);
    assert_eq!(names(m.plug.take()), [("ejected", 9, false)]);
}

#[test]
fn a_reset_gives_what_was_asked_for() {
    let (m, slot) = Machine::with_device();
    m.plug.plug(Some(7), device()).unwrap();
    m.plug.request(slot, PATIENCE).unwrap();
    m.plug.reset().unwrap();
    assert_eq!((m.dispatch(), m.get(8), m.host.take()), ((0, 0), 1 << 7, 1));
    assert_eq!(names(m.plug.take()), [("ejected", slot, true)]);
    m.plug.reset().unwrap();
    assert_eq!((m.host.take(), m.plug.next_deadline()), (0, None));
}

#[test]
fn what_was_not_told_yet_survives_saving() {
    let (m, slot) = Machine::with_device();
    m.plug.request(slot, PATIENCE).unwrap();
    m.plug.plug(Some(7), device()).unwrap();
    m.clock.advance(Duration::from_secs(1));
    let state = m.plug.save().unwrap();
    let new = machine();
    new.segment.add(Some(slot), device()).unwrap();
    new.segment.add(Some(7), device()).unwrap();
    new.plug.restore(as_written(&state)).unwrap();
    assert_eq!((new.plug.save().unwrap(), new.guest.take()), (state, 1));
    assert_eq!(new.plug.next_deadline(), Some(Duration::from_secs(4)));
    assert_eq!(new.dispatch(), (1 << 7, 1 << slot));
    new.clock.advance(PATIENCE);
    assert_eq!(names(new.plug.take()), [("overdue", slot, true)]);
    assert_eq!(new.plug.save().unwrap().waiting, [(slot, None)]);
    let _ = new.set(12, 1 << slot);
    assert!(new.plug.save().is_err(), "somebody has to take the function first");
}

#[test]
fn impossible_states_are_refused_whole() {
    let (m, slot) = Machine::with_device();
    let good = m.plug.save().unwrap();
    let state =
        |changed, requested, waiting| HotPlugState { changed, requested, waiting, noticed: Vec::new() };
    let noticed = |noticed: &[(u8, u8)]| HotPlugState { noticed: noticed.to_vec(), ..good.clone() };
    for bad in [
        state(1, 0, vec![]),
        state(0, 1 << slot, vec![]),
        state(0, 0, vec![(0, None)]),
        state(0, 0, vec![(9, None)]),
        state(0, 0, vec![(32, None)]),
        state(0, 0, vec![(slot, None), (slot, Some(1))]),
        noticed(&[(0, 1)]),
        noticed(&[(32, 1)]),
        noticed(&[(slot, 0)]),
        noticed(&[(slot, 1), (slot, 1)]),
    ] {
        assert!(m.plug.restore(bad.clone()).is_err(), "{bad:?}");
        assert_eq!(m.plug.save().unwrap(), good);
    }
    m.plug.restore(state(1 << slot, 1 << slot, vec![(slot, Some(u64::MAX))])).unwrap();
}

#[test]
fn the_build_script_encodes_every_slot_that_can_be_plugged() {
    assert_eq!(super::aml::SLOTS_AML, slots::aml(1..SLOTS));
}
