use super::*;
use acpi_tables::AmlSink;
use drystone_state::Persist;
use std::sync::atomic::{AtomicU64, Ordering};

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

struct Nothing;
impl Aml for Nothing {
    fn to_aml_bytes(&self, _: &mut dyn AmlSink) {}
}

fn ged(events: usize) -> (Ged, Vec<GedEvent>, Arc<Count>) {
    let count = Arc::new(Count::default());
    let mut ged = Ged::new(GedConfig::default(), count.clone());
    let events = (0..events).map(|_| ged.add(&Nothing).unwrap()).collect();
    (ged, events, count)
}

fn get(ged: &Ged) -> u32 {
    let mut data = [0x77; 4];
    ged.read(0, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn events_are_told_once_and_together() {
    let (ged, events, interrupt) = ged(32);
    assert_eq!(get(&ged), 0);
    for number in [0, 31, 9, 31] {
        events[number].trigger();
    }
    assert_eq!(interrupt.take(), 4);
    assert_eq!((get(&ged), get(&ged)), (1 << 31 | 1 << 9 | 1, 0));
    assert_eq!(ged.write(0, &[0xff; 4]), Effect::None);
    assert_eq!(get(&ged), 0, "the guest cannot make events");
}

#[test]
fn what_is_not_read_is_not_lost() {
    let (ged, events, _) = ged(32);
    events.iter().for_each(Interrupt::trigger);
    let mut data = [0; 8];
    ged.read(1, &mut data[..2]);
    assert_eq!(data[..2], [0xff, 0xff]);
    assert_eq!(get(&ged), 0xff00_00ff);
    ged.read(2, &mut data);
    assert_eq!(data, [0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "beyond it there is nothing");
    ged.read(u64::MAX, &mut data);
    assert_eq!(data, [0xff; 8]);
}

#[test]
fn there_are_so_many_events_and_no_more() {
    let (mut ged, _, _) = ged(Ged::MAX_EVENTS);
    let refused = ged.add(&Nothing).err().unwrap().to_string();
    assert_eq!(refused, "the ACPI event device has no room for another event: it has 32");
}

#[test]
fn a_pending_event_survives_saving_and_not_a_reset() {
    let (old, events, _) = ged(3);
    events[2].trigger();
    let (new, _, interrupt) = ged(3);
    new.persist().unwrap().restore_blob(&old.persist().unwrap().save_blob().unwrap()).unwrap();
    assert_eq!((interrupt.take(), get(&new)), (1, 4));
    let refused = new.restore(GedState { pending: 8 }).unwrap_err().to_string();
    assert!(refused.contains("events 0x8 are pending, and this machine has 3"), "{refused}");
    old.reset().unwrap();
    assert_eq!(old.save().unwrap(), GedState { pending: 0 });
    new.restore(GedState { pending: 0 }).unwrap();
    assert_eq!(interrupt.take(), 0);
    let (full, _, _) = ged(32);
    full.restore(GedState { pending: u32::MAX }).unwrap();
    assert_eq!(get(&full), u32::MAX);
}
