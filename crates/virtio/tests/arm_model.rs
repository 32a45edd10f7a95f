//! A model of notification suppression: loom tries every interleaving of a driver and the very source file that the
//! library compiles, over loom's atomics and fences.
//!
//! Both sides sleep when they have nothing to do, so a kick or an interrupt that is lost shows as a deadlock.
#![allow(missing_docs, dead_code, clippy::unwrap_used)]

#[path = "../src/ring/arm.rs"]
mod arm;

use arm::{Batch, Shared, hush, passed, settle};
use loom::sync::atomic::{AtomicU16, Ordering, fence};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

/// The words of a ring. What is in it does not matter here.
#[derive(Default)]
struct Words {
    event_idx: bool,
    available: AtomicU16,
    driver_flags: AtomicU16,
    used_event: AtomicU16,
    used: AtomicU16,
    device_flags: AtomicU16,
    avail_event: AtomicU16,
}

impl Shared for Words {
    type Error = ();
    fn event_idx(&self) -> bool {
        self.event_idx
    }
    fn available(&self, order: Ordering) -> Result<u16, ()> {
        Ok(self.available.load(order))
    }
    fn driver_flags(&self) -> Result<u16, ()> {
        Ok(self.driver_flags.load(Ordering::Relaxed))
    }
    fn used_event(&self) -> Result<u16, ()> {
        Ok(self.used_event.load(Ordering::Relaxed))
    }
    fn set_used(&self, index: u16) -> Result<(), ()> {
        self.used.store(index, Ordering::Release);
        Ok(())
    }
    fn set_device_flags(&self, flags: u16) -> Result<(), ()> {
        self.device_flags.store(flags, Ordering::Relaxed);
        Ok(())
    }
    fn set_avail_event(&self, index: u16) -> Result<(), ()> {
        self.avail_event.store(index, Ordering::Relaxed);
        Ok(())
    }
}

/// An eventfd: rings merge, and a wait takes them all.
#[derive(Default)]
struct Event(Mutex<bool>, Condvar);

impl Event {
    fn ring(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_one();
    }
    fn wait(&self) {
        let mut rung = self.0.lock().unwrap();
        while !*rung {
            rung = self.1.wait(rung).unwrap();
        }
        *rung = false;
    }
}

#[derive(Default)]
struct Machine {
    words: Words,
    kick: Event,
    interrupt: Event,
}

/// A worker's call, as `RingRef` makes it: hush, pop until empty, settle.
fn serve(machine: &Machine, next_avail: &mut u16, next_used: &mut u16) -> bool {
    let words = &machine.words;
    hush(words).unwrap();
    let mut added = 0;
    while words.available(Ordering::Acquire).unwrap() != *next_avail {
        *next_avail += 1;
        *next_used += 1;
        added += 1;
    }
    let batch = Batch { next_avail: *next_avail, next_used: *next_used, added, emptied: true };
    let outcome = settle(words, &batch, || fence(Ordering::SeqCst)).unwrap();
    if outcome.interrupt {
        machine.interrupt.ring();
    }
    outcome.more
}

fn device(machine: &Machine, requests: u16) {
    let (mut next_avail, mut next_used) = (0, 0);
    // DRIVER_OK has every ring looked at.
    while serve(machine, &mut next_avail, &mut next_used) {}
    while next_used != requests {
        machine.kick.wait();
        while serve(machine, &mut next_avail, &mut next_used) {}
    }
}

/// Adds requests one by one, kicks if it must, and sleeps until the last is used.
fn driver(machine: &Machine, requests: u16) {
    let words = &machine.words;
    for n in 1..=requests {
        words.available.store(n, Ordering::Release);
        fence(Ordering::SeqCst);
        let wanted = if words.event_idx {
            passed(words.avail_event.load(Ordering::Relaxed), n, 1)
        } else {
            words.device_flags.load(Ordering::Relaxed) & arm::NO_NOTIFY == 0
        };
        if wanted {
            machine.kick.ring();
        }
    }
    let mut seen = 0;
    while seen != requests {
        // As Linux does: ask for an interrupt at the next, then look again, then sleep.
        words.used_event.store(seen, Ordering::Relaxed);
        words.driver_flags.store(0, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let used = words.used.load(Ordering::Acquire);
        if used == seen {
            machine.interrupt.wait();
        }
        words.driver_flags.store(arm::NO_INTERRUPT, Ordering::Relaxed);
        seen = words.used.load(Ordering::Acquire);
    }
}

fn check(event_idx: bool, requests: u16) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let words = Words { event_idx, ..Words::default() };
        let machine = Arc::new(Machine { words, ..Machine::default() });
        let theirs = machine.clone();
        let thread = thread::spawn(move || device(&theirs, requests));
        driver(&machine, requests);
        thread.join().unwrap();
    });
}

#[test]
fn with_an_event_index_nobody_sleeps_through_anything() {
    check(true, 2);
}

#[test]
fn with_flags_nobody_sleeps_through_anything() {
    check(false, 2);
}
