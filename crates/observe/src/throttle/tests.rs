use crate::{KeyedThrottle, Level, Log, Quota, Throttle};
use drystone_bus::ManualClock;
use std::fmt::Display;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const QUOTA: Quota = Quota { first: 2, period: Duration::from_secs(10) };

struct Rig {
    lines: Arc<Mutex<Vec<String>>>,
    clock: Arc<ManualClock>,
    log: Log,
}

impl Rig {
    fn new() -> Self {
        let (lines, clock) = (Arc::new(Mutex::new(Vec::new())), Arc::new(ManualClock::default()));
        let to: Arc<Mutex<Vec<String>>> = lines.clone();
        let sink =
            move |level: Level, line: &dyn Display| to.lock().unwrap().push(format!("{level:?} {line}"));
        let log = Log::new("rng", Arc::new(sink), clock.clone());
        Self { lines, clock, log }
    }
    fn said(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock().unwrap())
    }
}

struct Unformatted;
impl Display for Unformatted {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("formatted though suppressed")
    }
}

#[test]
fn the_first_of_a_period_pass_and_the_rest_is_counted() {
    let rig = Rig::new();
    let throttle = Throttle::new(rig.log.clone(), QUOTA);
    (0..2).for_each(|i| throttle.warn(format_args!("bad ring {i}")));
    (0..1000).for_each(|_| throttle.warn(Unformatted));
    assert_eq!(rig.said(), ["Warn rng: bad ring 0", "Warn rng: bad ring 1"]);
    rig.clock.advance(QUOTA.period);
    throttle.write(Level::Error, "again");
    assert_eq!(rig.said(), ["Warn rng: … 1000 more suppressed", "Error rng: again"]);
    throttle.warn("and");
    throttle.warn("not this");
    throttle.flush();
    throttle.flush();
    assert_eq!(rig.said(), ["Warn rng: and", "Warn rng: … 1 more suppressed"]);
}

#[test]
fn what_was_suppressed_is_said_in_the_end() {
    let rig = Rig::new();
    let throttle = Throttle::new(rig.log.clone(), QUOTA);
    (0..5).for_each(|_| throttle.warn("x"));
    drop(throttle);
    assert_eq!(rig.said().last().unwrap(), "Warn rng: … 3 more suppressed");
}

#[test]
fn a_noisy_key_does_not_silence_the_others() {
    let rig = Rig::new();
    let throttle = KeyedThrottle::new(rig.log.clone(), QUOTA, 8);
    (0..100).for_each(|_| throttle.warn(1, "x"));
    throttle.warn(2, "y");
    assert_eq!(rig.said(), ["Warn rng: 1: x", "Warn rng: 1: x", "Warn rng: 2: y"]);
    drop(throttle);
    assert_eq!(rig.said(), ["Warn rng: 1: … 98 more suppressed"]);
}

#[test]
fn keys_of_the_guests_choosing_bloat_neither_memory_nor_log() {
    let rig = Rig::new();
    let throttle = KeyedThrottle::new(rig.log.clone(), QUOTA, 8);
    (0..10_000).for_each(|key| throttle.warn(key, "x"));
    assert_eq!(throttle.windows_known(), 8);
    assert_eq!(rig.said().len(), 8 + 2, "each known key once, and the others' two");
    // The old ones make room when their time is over, and what the others lost is said.
    rig.clock.advance(QUOTA.period);
    throttle.warn(77, "x");
    assert_eq!((throttle.windows_known(), rig.said()), (1, vec!["Warn rng: 77: x".to_owned()]));
    drop(throttle);
    assert_eq!(rig.said(), ["Warn rng: others: … 9990 more suppressed"]);
}
