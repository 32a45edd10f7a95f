//! A model of triggers that race with masking: loom tries every interleaving of the very source file that the library
//! compiles, here over loom's mutex.
#![allow(missing_docs, dead_code, clippy::unwrap_used)]

#[path = "../src/msix/latch.rs"]
mod latch;

/// What `latch.rs` is built on.
mod sync {
    pub(crate) use loom::sync::{Mutex, MutexGuard};
}
use drystone_pci::{Message, Vector, VectorError};

use drystone_bus::Interrupt;
use latch::Latch;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering::SeqCst};
use loom::thread;

const MESSAGE: Message = Message { address: 0xfee0_0000, data: 1 };

struct Counted {
    vector: Latch<Box<dyn Fn(Message) + Send + Sync>>,
    sent: Arc<AtomicU32>,
}

fn counted() -> Arc<Counted> {
    let sent = Arc::new(AtomicU32::new(0));
    let counter = sent.clone();
    let send = move |message| {
        assert_eq!(message, MESSAGE);
        counter.fetch_add(1, SeqCst);
    };
    Arc::new(Counted { vector: Latch::new(Box::new(send)), sent })
}

#[test]
fn a_trigger_that_races_with_unmasking_is_sent_exactly_once() {
    loom::model(|| {
        let one = counted();
        let guest = one.clone();
        let guest = thread::spawn(move || guest.vector.set(Some(MESSAGE)).unwrap());
        one.vector.trigger();
        guest.join().unwrap();
        assert_eq!((one.sent.load(SeqCst), one.vector.is_pending()), (1, false));
    });
}

#[test]
fn a_trigger_that_races_with_masking_is_sent_now_or_later_and_never_twice() {
    loom::model(|| {
        let one = counted();
        one.vector.set(Some(MESSAGE)).unwrap();
        let guest = one.clone();
        let guest = thread::spawn(move || {
            guest.vector.set(None).unwrap();
            guest.vector.set(Some(MESSAGE)).unwrap();
        });
        one.vector.trigger();
        guest.join().unwrap();
        assert_eq!((one.sent.load(SeqCst), one.vector.is_pending()), (1, false));
    });
}

#[test]
fn while_it_is_masked_nothing_is_sent_and_two_triggers_are_one() {
    loom::model(|| {
        let one = counted();
        let other = one.clone();
        let other = thread::spawn(move || other.vector.trigger());
        one.vector.trigger();
        other.join().unwrap();
        assert_eq!((one.sent.load(SeqCst), one.vector.is_pending()), (0, true));
        one.vector.set(Some(MESSAGE)).unwrap();
        assert_eq!((one.sent.load(SeqCst), one.vector.is_pending()), (1, false));
    });
}

#[test]
fn two_devices_and_a_guest() {
    loom::model(|| {
        let one = counted();
        let (other, guest) = (one.clone(), one.clone());
        let other = thread::spawn(move || other.vector.trigger());
        let guest = thread::spawn(move || guest.vector.set(Some(MESSAGE)).unwrap());
        one.vector.trigger();
        other.join().unwrap();
        guest.join().unwrap();
        let sent = one.sent.load(SeqCst);
        assert!((1..=2).contains(&sent) && !one.vector.is_pending(), "{sent}");
    });
}
