use super::*;
use crate::{Class, Config, Identity};
use drystone_state::Persist;
use drystone_testkit::as_written;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PLACE: MsixPlace = MsixPlace { bar: 0, table: 0x1000, pending: 0x2000 };
const MASTER: u8 = 1 << 2;

type Sent = Arc<Mutex<Vec<(usize, Message)>>>;

fn space() -> ConfigSpace {
    let class = Class { base: 0xff, sub: 0, interface: 0 };
    let mut space = ConfigSpace::new(&Identity {
        vendor: 1,
        device: 2,
        revision: 0,
        class,
        subsystem_vendor: 0,
        subsystem: 0,
    });
    space.add_bar(0, BarKind::Memory64, 0x4000).unwrap();
    space
}

/// A function with `count` vectors, and what they have sent.
fn function(count: usize) -> (Config, Vec<Arc<dyn Interrupt>>, Sent) {
    let sent = Sent::default();
    let vector = |number| {
        let sent = sent.clone();
        Arc::new(Latch::new(move |m| sent.lock().unwrap().push((number, m)))) as Arc<dyn Vector>
    };
    let mut space = space();
    let msix = Msix::new(&mut space, PLACE, (0..count).map(vector).collect()).unwrap();
    let triggers = (0..count).map(|n| msix.interrupt(n as u16).unwrap()).collect();
    (Config::with_msix(space, msix), triggers, sent)
}

fn control(config: &Config, value: u16) {
    let _ = config.write(0x42, &value.to_le_bytes());
}

fn command(config: &Config, value: u8) {
    assert_eq!(config.write(4, &[value]), drystone_bus::Effect::None);
}

fn set(config: &Config, vector: u64, entry: [u32; 4]) {
    for (register, value) in (0..).zip(entry) {
        let at = 0x1000 + vector * 16 + register * 4;
        assert!(config.msix().unwrap().write(0, at, &value.to_le_bytes()));
    }
}

fn get(config: &Config, offset: u64) -> u32 {
    let mut data = [0x55; 4];
    assert!(config.msix().unwrap().read(0, offset, &mut data));
    u32::from_le_bytes(data)
}

fn message(data: u32) -> Message {
    Message { address: 0x1_fee0_0000, data }
}

/// A function whose vectors are all set up, enabled and not masked.
fn ready(count: usize) -> (Config, Vec<Arc<dyn Interrupt>>, Sent) {
    let (config, triggers, sent) = function(count);
    let _ = config.write(4, &[MASTER]);
    control(&config, ENABLE);
    (0..count).for_each(|n| set(&config, n as u64, [0xfee0_0000, 1, n as u32, 0]));
    (config, triggers, sent)
}

fn take(sent: &Sent) -> Vec<(usize, Message)> {
    std::mem::take(&mut sent.lock().unwrap())
}

#[test]
fn the_capability_says_where_the_structures_are() {
    let (config, ..) = function(5);
    control(&config, u16::MAX);
    let mut bytes = [0; 12];
    config.read(0x40, &mut bytes);
    assert_eq!(bytes, [0x11, 0, 4, 0xc0, 0, 0x10, 0, 0, 0, 0x20, 0, 0]);
}

#[test]
fn the_table_begins_masked_and_keeps_what_is_written() {
    let (config, ..) = function(2);
    assert_eq!([0x1000, 0x1004, 0x1008, 0x100c, 0x101c].map(|at| get(&config, at)), [0, 0, 0, 1, 1]);
    set(&config, 1, [u32::MAX; 4]);
    assert_eq!([0x1010, 0x1014, 0x1018, 0x101c].map(|at| get(&config, at)), [!3, u32::MAX, u32::MAX, 1]);
    assert_eq!(get(&config, 0x1008), 0);
}

#[test]
fn a_trigger_is_sent_only_when_everything_allows_it() {
    let (config, triggers, sent) = ready(3);
    triggers[1].trigger();
    assert_eq!(take(&sent), [(1, message(1))]);
    type Act = fn(&Config);
    let blocks: [(&str, Act, Act); 4] = [
        ("function mask", |c| control(c, ENABLE | FUNCTION_MASK), |c| control(c, ENABLE)),
        ("disabled", |c| control(c, 0), |c| control(c, ENABLE)),
        ("no bus master", |c| command(c, 0), |c| command(c, MASTER)),
        (
            "vector mask",
            |c| assert!(c.msix().unwrap().write(0, 0x101c, &[1, 0, 0, 0])),
            |c| assert!(c.msix().unwrap().write(0, 0x101c, &[0, 0, 0, 0])),
        ),
    ];
    for (what, block, open) in blocks {
        block(&config);
        (0..3).for_each(|_| triggers[1].trigger());
        assert_eq!((take(&sent), get(&config, 0x2000)), (vec![], 0b10), "{what}");
        open(&config);
        assert_eq!(
            (take(&sent), get(&config, 0x2000)),
            (vec![(1, message(1))], 0),
            "{what}: held, sent once"
        );
        triggers[1].trigger();
        assert_eq!(take(&sent).len(), 1, "{what}");
    }
}

#[test]
fn a_message_changed_while_masked_is_what_is_sent() {
    let (config, triggers, sent) = ready(1);
    set(&config, 0, [0xfee0_0000, 1, 0, 1]);
    triggers[0].trigger();
    set(&config, 0, [0xfee0_0000, 1, 77, 0]);
    assert_eq!(take(&sent), [(0, message(77))]);
}

/// A guest may write the end of one entry and the beginning of the next at once.
#[test]
fn a_write_across_two_entries_changes_both() {
    let (config, triggers, sent) = ready(2);
    let data = [1, 0, 0, 0, 0x00, 0x10, 0xe0, 0xfe];
    assert!(config.msix().unwrap().write(0, 0x100c, &data));
    triggers.iter().for_each(|t| t.trigger());
    assert_eq!(take(&sent), [(1, Message { address: 0x1_fee0_1000, data: 1 })]);
    assert_eq!(get(&config, 0x2000), 1, "the first is masked");
}

#[test]
fn pending_bits_are_read_only_and_found_at_every_width() {
    let (config, triggers, _) = function(70);
    [0, 9, 65].into_iter().for_each(|n| triggers[n].trigger());
    let msix = config.msix().unwrap();
    assert_eq!((get(&config, 0x2000), get(&config, 0x2004), get(&config, 0x2008)), (1 << 9 | 1, 0, 2));
    let mut byte = [0xff];
    assert!(msix.read(0, 0x2001, &mut byte) && byte == [2]);
    let mut wide = [0xff; 8];
    assert!(msix.read(0, 0x2008, &mut wide) && wide == [2, 0, 0, 0, 0, 0, 0, 0]);
    assert!(msix.write(0, 0x2000, &[0xff; 8]));
    assert_eq!(get(&config, 0x2000), 1 << 9 | 1);
}

#[test]
fn accesses_elsewhere_are_the_devices_and_strange_ones_are_sound() {
    let (config, ..) = function(2);
    let msix = config.msix().unwrap();
    for (bar, offset) in [(1, 0x1000), (0, 0xfff), (0, 0x1020), (0, 0x1fff), (0, 0x2008), (0, u64::MAX)] {
        assert!(
            !msix.read(bar, offset, &mut [0; 4]) && !msix.write(bar, offset, &[0; 4]),
            "{bar} {offset:#x}"
        );
    }
    let mut data = [0x55; 8];
    assert!(msix.read(0, 0x101e, &mut data) && data == [0; 8], "across the end");
    assert!(msix.write(0, 0x101d, &[0xff; 8]) && msix.write(0, 0x1003, &[0xff]));
    assert_eq!(get(&config, 0x1000), 0xff00_0000);
}

#[test]
fn structures_that_cannot_be_are_refused() {
    let vectors = |n| (0..n).map(|_| Arc::new(Latch::new(|_| ())) as Arc<dyn Vector>).collect();
    let new = |place, n| Msix::new(&mut space(), place, vectors(n)).err();
    assert!(matches!(new(PLACE, 0), Some(MsixError::Vectors(0))));
    assert!(matches!(new(PLACE, 2049), Some(MsixError::Vectors(2049))));
    for place in [
        MsixPlace { bar: 1, ..PLACE },
        MsixPlace { bar: 9, ..PLACE },
        MsixPlace { table: 0x1004, ..PLACE },
        MsixPlace { table: 0x3ff8, ..PLACE },
        MsixPlace { pending: 0x4000, ..PLACE },
        MsixPlace { pending: 0x1008, ..PLACE },
        MsixPlace { pending: u32::MAX - 7, ..PLACE },
    ] {
        assert!(matches!(new(place, 2), Some(MsixError::Place { .. })), "{place:?}");
    }
    assert!(new(PLACE, 256).is_none());
}

#[test]
fn state_and_pending_vectors_survive_saving() {
    let (old, triggers, sent) = ready(3);
    set(&old, 2, [0xfee0_0000, 1, 2, 1]);
    [2, 1].into_iter().for_each(|n| triggers[n].trigger());
    assert_eq!(take(&sent).len(), 1);
    let state = old.save().unwrap();
    assert_eq!(state.msix.as_ref().unwrap().pending, [2]);
    let (new, triggers, sent) = function(3);
    new.restore(as_written(&state)).unwrap();
    assert_eq!((new.save().unwrap(), take(&sent)), (state, vec![]));
    set(&new, 2, [0xfee0_0000, 1, 2, 0]);
    assert_eq!(take(&sent), [(2, message(2))]);
    triggers[0].trigger();
    assert_eq!(take(&sent), [(0, message(0))]);
}

#[test]
fn a_vector_pending_for_the_function_is_sent_on_restore_where_it_may() {
    let (old, triggers, _) = function(1);
    triggers[0].trigger();
    let _ = old.write(4, &[MASTER]);
    set(&old, 0, [0xfee0_0000, 1, 5, 0]);
    let mut state = old.save().unwrap();
    state.registers.iter_mut().find(|(at, _)| *at == 0x40).unwrap().1 |= u32::from(ENABLE) << 16;
    let (new, _, sent) = function(1);
    new.restore(state).unwrap();
    assert_eq!(take(&sent), [(0, message(5))]);
}

#[test]
fn impossible_states_are_refused_whole() {
    let (config, ..) = function(2);
    let good = config.save().unwrap();
    let with = |act: fn(&mut MsixState)| {
        let mut state = good.clone();
        act(state.msix.as_mut().unwrap());
        state
    };
    let bad = [
        crate::ConfigState { msix: None, ..good.clone() },
        with(|m| m.entries.truncate(1)),
        with(|m| m.entries.push((0, 0, true))),
        with(|m| m.entries[1].0 = 2),
        with(|m| m.pending = vec![2]),
        with(|m| m.pending = vec![1, 0]),
        with(|m| m.pending = vec![0, 0]),
    ];
    for state in bad {
        assert!(config.restore(state.clone()).is_err(), "{state:?}");
        assert_eq!(config.save().unwrap(), good);
    }
}

#[test]
fn a_reset_masks_everything_and_forgets_what_was_pending() {
    let (config, triggers, sent) = ready(2);
    set(&config, 1, [0xfee0_0000, 1, 1, 1]);
    triggers[1].trigger();
    assert!(config.msix().unwrap().is_enabled());
    config.reset();
    assert!(!config.msix().unwrap().is_enabled());
    assert_eq!(config.save().unwrap(), function(2).0.save().unwrap());
    triggers[0].trigger();
    assert_eq!((take(&sent), get(&config, 0x2000)), (vec![], 1));
}

#[test]
fn a_vector_that_refuses_is_counted_and_asked_again() {
    struct Stubborn(AtomicBool, Mutex<Option<Message>>);
    impl Interrupt for Stubborn {
        fn trigger(&self) {}
    }
    impl Vector for Stubborn {
        fn set(&self, message: Option<Message>) -> Result<(), VectorError> {
            if self.0.load(Ordering::Relaxed) {
                return Err("no".into());
            }
            *self.1.lock().unwrap() = message;
            Ok(())
        }
        fn is_pending(&self) -> bool {
            false
        }
        fn clear_pending(&self) {}
    }
    let (mut space, vector) = (space(), Arc::new(Stubborn(AtomicBool::new(true), Mutex::default())));
    let msix = Msix::new(&mut space, PLACE, vec![vector.clone()]).unwrap();
    let config = Config::with_msix(space, msix);
    let _ = config.write(4, &[MASTER]);
    control(&config, ENABLE);
    set(&config, 0, [0xfee0_0000, 0, 1, 0]);
    assert_eq!(config.msix().unwrap().failures(), 1);
    vector.0.store(false, Ordering::Relaxed);
    control(&config, ENABLE);
    control(&config, ENABLE);
    assert_eq!(config.msix().unwrap().failures(), 1);
    assert_eq!(*vector.1.lock().unwrap(), Some(Message { address: 0xfee0_0000, data: 1 }));
}

/// Every trigger waits for its message, while the guest masks and unmasks in every way: not one more, not one less.
#[test]
fn messages_are_counted_under_masking() {
    const TRIGGERS: u64 = 20_000;
    let count = Arc::new(AtomicU64::new(0));
    let counter = count.clone();
    let vector = Latch::new(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    let mut space = space();
    let msix = Msix::new(&mut space, PLACE, vec![Arc::new(vector)]).unwrap();
    let trigger = msix.interrupt(0).unwrap();
    let config = Config::with_msix(space, msix);
    let _ = config.write(4, &[MASTER]);
    control(&config, ENABLE);
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let msix = config.msix().unwrap();
            while !done.load(Ordering::SeqCst) {
                assert!(msix.write(0, 0x100c, &[1]) && msix.write(0, 0x100c, &[0]));
            }
        });
        threads.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                control(&config, ENABLE | FUNCTION_MASK);
                control(&config, ENABLE);
            }
        });
        let limit = Instant::now() + Duration::from_secs(300);
        let exact = (1..=TRIGGERS).all(|sent| {
            trigger.trigger();
            while count.load(Ordering::SeqCst) < sent && Instant::now() < limit {
                std::hint::spin_loop();
            }
            count.load(Ordering::SeqCst) == sent
        });
        // Whatever came of it, the others end.
        done.store(true, Ordering::SeqCst);
        assert!(exact, "one was lost, or sent twice: {count:?}");
    });
    assert_eq!(count.load(Ordering::SeqCst), TRIGGERS);
}
