//! Pause, reset, saving and containment, with requests in flight.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use common::{BUFFER, Custom, Rig, SHORT, patient_rig, rig};
use drystone_state::{Component, Persist};
use drystone_testkit::virtio::{DriverRing, Echo, Hoard, Hoarded, Ram, WRITE, ram};
use drystone_virtio::{
    Attempt, Chain, Cx, F_EVENT_IDX, F_RING_RESET, NEEDS_RESET, Next, StuckError, VirtioCore,
};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress};

/// Two queues, one each worker, with `n` requests in flight on the first.
fn hoard(memory: &Ram, patience: Duration, n: u32) -> (Rig, Vec<Arc<Hoarded>>, [DriverRing; 2]) {
    let (device, hands) = Hoard::new(2);
    let rig = patient_rig(Box::new(device), memory, patience);
    let mut rings = [0x10000, 0x20000].map(|base| DriverRing::new(memory, base, 16, false));
    rig.bring_up(&[&rings[0], &rings[1]], 0);
    for _ in 0..n {
        rings[0].add(&[BUFFER], false).unwrap();
    }
    rig.kick(0);
    assert_eq!(hands[0].held(), n);
    (rig, hands, rings)
}

/// Twenty times, without waiting for a back end once.
fn nobody_waits(mut attempt: impl FnMut()) {
    // So often that a busy machine's delays are nothing beside what waiting would take.
    const TIMES: u32 = 400;
    let begun = Instant::now();
    for _ in 0..TIMES {
        attempt();
    }
    assert!(begun.elapsed() < TIMES * SHORT, "it was waited for again");
}

fn byte(memory: &Ram, addr: u64) -> u8 {
    memory.read_obj(GuestAddress(addr)).unwrap()
}

#[test]
fn a_pause_waits_for_what_is_in_flight_and_takes_nothing_new() {
    let memory = ram(1 << 20);
    let (rig, hands, [mut a, _]) = hoard(&memory, Duration::from_secs(60), 2);
    let core = rig.core.clone();
    let pausing = std::thread::spawn(move || core.pause());
    // It has the lane once the first request comes back: nobody else serves it.
    hands[0].let_go(1);
    while a.used_index() == 0 {
        std::thread::yield_now();
    }
    a.add(&[BUFFER], false).unwrap(); // too late: it stays in the ring
    let _ = rig.core.kick(0);
    assert!(!pausing.is_finished());
    assert_eq!((a.used_index(), hands[0].held()), (1, 1));
    hands[0].let_go(1);
    pausing.join().unwrap().unwrap();
    assert_eq!((a.used_index(), hands[0].held()), (2, 0));
    let _ = (rig.core.kick(0), rig.core.ready(1, 0));
    assert_eq!((a.used_index(), hands[0].held()), (2, 0), "paused");
    rig.core.resume();
    rig.serve();
    assert_eq!(hands[0].held(), 1);
}

#[test]
fn a_pause_that_a_back_end_does_not_finish_is_given_up_and_the_device_runs_on() {
    let memory = ram(1 << 20);
    let (rig, hands, [mut a, mut b]) = hoard(&memory, SHORT, 2);
    assert_eq!(rig.core.pause(), Err(StuckError { lane: 1, attempt: Attempt::Pause }));
    let said = rig.log.take();
    assert!(
        said.len() == 1 && said[0].contains("lane 1 is stuck: pause") && said[0].contains("2 requests"),
        "{said:?}"
    );
    // Asked again, it does not wait again, and says nothing new.
    nobody_waits(|| assert!(Component::pause(&*rig.core).is_err()));
    assert!(rig.log.take().is_empty());
    assert!(rig.core.save().is_err(), "it runs");
    // It is as alive as before.
    assert_eq!(rig.core.status() & NEEDS_RESET, 0);
    b.add(&[BUFFER], false).unwrap();
    rig.kick(1);
    hands[1].let_go(1);
    let _ = rig.core.ready(2, 0);
    assert_eq!(b.take().unwrap().1, 1);
    hands[0].let_go(2);
    let _ = rig.core.ready(1, 0);
    assert_eq!(std::iter::from_fn(|| a.take()).count(), 2);
    rig.core.pause().unwrap();
}

#[test]
fn what_sources_said_during_a_pause_that_was_given_up_is_not_lost() {
    let memory = ram(1 << 20);
    let (rig, hands, [_, mut b]) = hoard(&memory, SHORT, 2);
    b.add(&[BUFFER], false).unwrap();
    rig.kick(1);
    let core = rig.core.clone();
    let pausing = std::thread::spawn(move || core.pause());
    std::thread::sleep(SHORT / 4);
    // Lane 2 is held while lane 1 is waited for: its loop is told to go away, and does not hear of the event again.
    hands[1].let_go(1);
    let _ = rig.core.ready(2, 0);
    assert!(pausing.join().unwrap().is_err());
    rig.serve();
    assert_eq!(b.take().unwrap().1, 1);
}

#[test]
fn a_reset_waits_for_what_touches_memory() {
    let memory = ram(1 << 20);
    let (rig, hands, [a, _]) = hoard(&memory, Duration::from_secs(60), 5);
    hands[0].set_stubborn(true);
    let core = rig.core.clone();
    let reset = std::thread::spawn(move || core.set_status(0));
    std::thread::sleep(Duration::from_millis(20));
    assert!(!reset.is_finished() && rig.core.status() != 0, "it reads 0 only when memory is safe");
    hands[0].set_stubborn(false);
    reset.join().unwrap();
    assert_eq!((rig.core.status(), a.used_index(), hands[0].held()), (0, 0, 0));
    // Nothing happens to memory that is the driver's again.
    hands[0].let_go(5);
    let _ = (rig.core.kick(0), rig.core.ready(1, 0));
    assert_eq!((a.used_index(), byte(&memory, 0x40000)), (0, 0));
}

#[test]
fn a_device_that_cannot_be_reset_is_dead_until_it_can() {
    let memory = ram(1 << 20);
    let (rig, hands, [a, mut b]) = hoard(&memory, SHORT, 3);
    hands[0].set_stubborn(true);
    rig.core.set_status(0);
    assert_eq!(rig.core.status(), NEEDS_RESET, "it never claims to be reset");
    let said = rig.log.take();
    assert!(
        said.len() == 1 && said[0].contains("reset not finished") && said[0].contains("3 requests"),
        "{said:?}"
    );
    // A guest that goes on asking waits for nothing.
    nobody_waits(|| {
        rig.core.set_status(0);
        assert_eq!(rig.core.status(), NEEDS_RESET);
    });
    // Nor does it take part in anything.
    for status in [1, 3, 0x0b, 0x0f] {
        rig.core.set_status(status);
        assert_eq!(rig.core.status(), NEEDS_RESET);
    }
    b.add(&[BUFFER], false).unwrap();
    rig.kick(1);
    assert_eq!((hands[1].held(), b.used_index()), (0, 0));
    assert!(rig.core.pause().is_err(), "memory is not still");
    assert!(rig.log.take().is_empty(), "said once");
    // Once its back end lets go, a reset works.
    hands[0].set_stubborn(false);
    rig.core.set_status(0);
    assert_eq!((rig.core.status(), a.used_index(), byte(&memory, 0x40000)), (0, 0, 0));
    let mut a = DriverRing::new(&memory, 0x10000, 16, false);
    rig.bring_up(&[&a], 0);
    a.add(&[BUFFER], false).unwrap();
    hands[0].let_go(1);
    rig.kick(0);
    assert_eq!(a.take().unwrap().1, 1);
}

/// A worker that blocks: what it does wrong is its author's fault, and still nobody else's problem.
#[test]
fn a_worker_that_does_not_return_holds_up_nobody() {
    let memory = ram(1 << 20);
    let (go, wait) = mpsc::channel::<()>();
    let (entered, inside) = mpsc::channel();
    let blocking = Arc::new(AtomicBool::new(false));
    let blocks = blocking.clone();
    let device = Custom(move |queue, cx: &mut Cx<'_, Ram>| {
        if blocks.load(Ordering::SeqCst) {
            entered.send(()).unwrap();
            wait.recv().unwrap();
        }
        let mut ring = cx.ring(queue)?;
        while let Some(chain) = ring.pop()? {
            ring.complete(chain, 1)?;
        }
        Ok(())
    });
    let rig = patient_rig(Box::new(device), &memory, SHORT);
    let mut d = DriverRing::new(&memory, 0x10000, 16, false);
    rig.bring_up(&[&d], 0);
    blocking.store(true, Ordering::SeqCst);
    d.add(&[BUFFER], false).unwrap();
    std::thread::scope(|s| {
        s.spawn(|| rig.core.kick(0));
        inside.recv().unwrap();
        // The configuration, a pause, a queue reset and a reset.
        let mut byte = [0xff];
        rig.core.config_read(0, &mut byte);
        assert!(rig.core.pause().is_err());
        assert_eq!(rig.log.take().len(), 1, "said once");
        nobody_waits(|| {
            rig.core.set_status(0);
            assert_eq!(rig.core.status(), NEEDS_RESET);
            assert!(rig.core.pause().is_err());
        });
        blocking.store(false, Ordering::SeqCst);
        go.send(()).unwrap();
    });
    let _ = rig.core.kick(0);
    assert_eq!(rig.core.status(), NEEDS_RESET, "it does not come alive by itself");
    rig.core.set_status(0);
    assert_eq!(rig.core.status(), 0);
    let mut d = DriverRing::new(&memory, 0x10000, 16, false);
    rig.bring_up(&[&d], 0);
    d.add(&[BUFFER], false).unwrap();
    rig.kick(0);
    assert_eq!(d.take().unwrap().1, 1);
}

/// A worker that is inside of a call while `give_up` happens, and whose driver always has more to do. Returns what came of the call
/// once it returned, and a message for each that came after it.
fn given_up(features: u64, give_up: impl FnOnce(&Rig)) -> (Rig, Next, mpsc::Receiver<()>) {
    let memory = ram(1 << 20);
    let (go, wait) = mpsc::channel::<()>();
    let (entered, inside) = mpsc::channel();
    let ring = Arc::new(Mutex::new(DriverRing::new(&memory, 0x10000, 16, false)));
    let (driver, blocking) = (ring.clone(), Arc::new(AtomicBool::new(false)));
    let blocks = blocking.clone();
    let device = Custom(move |queue, cx: &mut Cx<'_, Ram>| {
        if blocks.load(Ordering::SeqCst) {
            entered.send(()).unwrap();
            // Nobody ever sends: it goes on when the other end is dropped.
            let _ = wait.recv();
        }
        let mut ring = cx.ring(queue)?;
        while let Some(chain) = ring.pop()? {
            ring.complete(chain, 1)?;
            driver.lock().unwrap().offer(0);
        }
        Ok(())
    });
    let rig = patient_rig(Box::new(device), &memory, SHORT);
    rig.bring_up(&[&ring.lock().unwrap()], features);
    blocking.store(true, Ordering::SeqCst);
    ring.lock().unwrap().add(&[BUFFER], false).unwrap();
    let next = std::thread::scope(|s| {
        let served = s.spawn(|| rig.core.kick(0));
        inside.recv().unwrap();
        give_up(&rig);
        assert_ne!(rig.core.status() & NEEDS_RESET, 0);
        drop(go);
        served.join().unwrap()
    });
    (rig, next, inside)
}

#[test]
fn a_worker_that_returns_too_late_is_not_called_again() {
    let (_rig, next, calls) = given_up(0, |rig| rig.core.set_status(0));
    assert_eq!(next, Next::Idle);
    assert!(calls.try_recv().is_err(), "it was called again");
}

#[test]
fn a_lane_that_was_given_up_stays_so_over_a_pause() {
    let (rig, _, calls) = given_up(F_RING_RESET, |rig| rig.core.reset_queue(0));
    rig.core.pause().unwrap();
    rig.core.resume();
    assert_eq!(rig.core.kick(0), Next::Idle);
    assert!(calls.try_recv().is_err(), "it was called again");
}

#[test]
fn one_queue_is_reset_while_the_other_works() {
    let memory = ram(1 << 20);
    let (device, hands) = Hoard::new(2);
    let rig = patient_rig(Box::new(device), &memory, SHORT);
    let mut rings = [0x10000, 0x20000].map(|base| DriverRing::new(&memory, base, 16, false));
    rig.bring_up(&[&rings[0], &rings[1]], drystone_virtio::F_RING_RESET);
    for (queue, ring) in (0..).zip(&mut rings) {
        ring.add(&[BUFFER], false).unwrap();
        rig.kick(queue);
    }
    // What is in flight is finished first.
    hands[0].let_go(1);
    rig.core.reset_queue(0);
    assert_eq!((rings[0].used_index(), hands[0].held(), hands[1].held()), (1, 0, 1));
    let registers = rig.core.queue(0).unwrap();
    assert!(!registers.enabled && !registers.resetting && registers.size == 256 && registers.used == 0);
    rings[0].add(&[BUFFER], false).unwrap();
    rig.kick(0);
    assert_eq!(hands[0].held(), 0, "it is not used any more");
    // Somewhere else, of another size.
    let mut new = DriverRing::new(&memory, 0x30000, 32, false);
    rig.core.set_queue(0, |q| {
        (q.size, q.descriptors, q.available, q.used) = (32, new.descriptors(), new.available(), new.used());
    });
    rig.core.enable_queue(0);
    new.add(&[BUFFER], false).unwrap();
    hands[0].let_go(1);
    rig.kick(0);
    hands[1].let_go(1);
    let _ = rig.core.ready(2, 0);
    assert_eq!((new.take().unwrap().1, rings[1].take().unwrap().1), (1, 1));
    // One that does not finish: the device needs a reset, and says that the queue is still being reset.
    new.add(&[BUFFER], false).unwrap();
    rig.kick(0);
    rig.core.reset_queue(0);
    let registers = rig.core.queue(0).unwrap();
    assert!(registers.enabled && registers.resetting);
    assert_eq!((rig.core.status() & NEEDS_RESET, rig.edges.config()), (NEEDS_RESET, 1));
    assert!(rig.log.take()[0].contains("queue reset"));
}

#[test]
fn a_bad_ring_stops_its_own_lane_only() {
    let memory = ram(1 << 20);
    let (rig, hands, [mut a, mut b]) = hoard(&memory, Duration::from_secs(60), 1);
    a.offer(77);
    let _ = rig.core.kick(0);
    assert_eq!((rig.core.status() & NEEDS_RESET, rig.edges.config()), (NEEDS_RESET, 1));
    b.add(&[BUFFER], false).unwrap();
    rig.kick(1);
    hands[1].let_go(1);
    let _ = rig.core.ready(2, 0);
    assert_eq!(b.take().unwrap().1, 1);
    // It can be paused and saved; what is restored stays dead until the driver resets it.
    rig.core.pause().unwrap();
    let (device, hands) = Hoard::new(2);
    let next = common::rig(Box::new(device), &memory);
    next.core.restore(rig.core.save().unwrap()).unwrap();
    next.core.resume();
    b.add(&[BUFFER], false).unwrap();
    next.kick(1);
    assert_eq!((hands[1].held(), next.core.status() & NEEDS_RESET), (0, NEEDS_RESET));
    next.core.set_status(0);
    let mut a = DriverRing::new(&memory, 0x10000, 16, false);
    next.bring_up(&[&a], 0);
    a.add(&[BUFFER], false).unwrap();
    hands[0].let_go(1);
    next.kick(0);
    assert_eq!(a.take().unwrap().1, 1);
}

#[test]
fn a_panic_of_a_worker_stops_its_lane_and_a_reset_helps() {
    let memory = ram(1 << 20);
    let mut fuse = 2;
    let device = Custom(move |queue, cx: &mut Cx<'_, Ram>| {
        let mut ring = cx.ring(queue)?;
        while let Some(chain) = ring.pop()? {
            fuse -= 1;
            assert!(fuse != 0, "a bug of the author");
            ring.complete(chain, 1)?;
        }
        Ok(())
    });
    let rig = rig(Box::new(device), &memory);
    let mut d = DriverRing::new(&memory, 0x10000, 16, false);
    rig.bring_up(&[&d], 0);
    d.add(&[BUFFER], false).unwrap();
    d.add(&[BUFFER], false).unwrap();
    rig.kick(0);
    assert_eq!((rig.core.status() & NEEDS_RESET, d.used_index()), (NEEDS_RESET, 1));
    assert!(rig.log.take()[0].contains("panic: a bug of the author"));
    rig.core.pause().unwrap();
    rig.core.resume();
    rig.core.set_status(0);
    assert_eq!(rig.core.status(), 0, "the lost request was counted");
    let mut d = DriverRing::new(&memory, 0x10000, 16, false);
    rig.bring_up(&[&d], 0);
    d.add(&[BUFFER], false).unwrap();
    rig.kick(0);
    assert_eq!(d.take().unwrap().1, 1);
}

/// Every bug that an author can have with requests.
#[test]
fn device_bugs_are_caught_by_the_core() {
    #[derive(Clone, Copy, PartialEq)]
    enum Bug {
        Lost,
        TooMuch,
        PutBackTwice,
        OfAnotherRing,
    }
    let memory = ram(1 << 20);
    let kept: Arc<Mutex<Vec<Chain>>> = Arc::default();
    for bug in [Bug::Lost, Bug::TooMuch, Bug::PutBackTwice, Bug::OfAnotherRing] {
        let foreign = kept.clone();
        let device = Custom(move |queue, cx: &mut Cx<'_, Ram>| {
            let mut ring = cx.ring(queue)?;
            let mut all = Vec::new();
            while let Some(chain) = ring.pop()? {
                all.push(chain);
            }
            match bug {
                Bug::Lost => drop(all),
                Bug::TooMuch => ring.complete(all.pop().unwrap(), 9)?,
                Bug::PutBackTwice => ring.unpop(all.remove(0))?,
                Bug::OfAnotherRing => ring.complete(foreign.lock().unwrap().pop().unwrap(), 1)?,
            }
            Ok(())
        });
        let rig = rig(Box::new(device), &memory);
        let mut d = DriverRing::new(&memory, 0x10000, 16, false);
        d.add(&[BUFFER], false).unwrap();
        d.add(&[BUFFER], false).unwrap();
        if bug == Bug::OfAnotherRing {
            let other = kept_of_another(&memory, &kept);
            rig_fails(&rig, &d);
            drop(other);
        } else {
            rig_fails(&rig, &d);
        }
    }

    fn rig_fails(rig: &Rig, d: &DriverRing) {
        rig.bring_up(&[d], 0);
        let said = rig.log.take();
        assert_eq!(rig.core.status() & NEEDS_RESET, NEEDS_RESET);
        assert!(said.len() == 1 && said[0].contains("device bug"), "{said:?}");
    }
    fn kept_of_another(memory: &Ram, kept: &Arc<Mutex<Vec<Chain>>>) -> Rig {
        let into = kept.clone();
        let device = Custom(move |queue, cx: &mut Cx<'_, Ram>| {
            let mut ring = cx.ring(queue)?;
            while let Some(chain) = ring.pop()? {
                into.lock().unwrap().push(chain);
            }
            Ok(())
        });
        let other = rig(Box::new(device), memory);
        let mut d = DriverRing::new(memory, 0x20000, 16, false);
        other.bring_up(&[&d], 0);
        d.add(&[BUFFER], false).unwrap();
        other.kick(0);
        assert_eq!(kept.lock().unwrap().len(), 1);
        other
    }
}

/// vhost in small: the ring is served by a foreign thread over plain virtio-queue. No second trait is needed.
mod offload {
    use super::*;
    use drystone_state::{NoState, PersistDyn, RestoreError, SaveError};
    use drystone_virtio::{Description, Fault, VirtioDevice, Worker};
    use std::thread::JoinHandle;
    use virtio_queue::{Queue, QueueOwnedT, QueueT};

    struct Away {
        memory: Ram,
        peer: Option<(Arc<AtomicBool>, JoinHandle<Queue>)>,
    }
    impl Away {
        fn stop(&mut self) -> Option<Queue> {
            let (flag, thread) = self.peer.take()?;
            flag.store(true, Ordering::Release);
            Some(thread.join().unwrap())
        }
    }
    impl Worker<Ram> for Away {
        fn offloaded(&self) -> bool {
            true
        }
        fn start(&mut self, cx: &mut Cx<'_, Ram>) -> Result<(), Fault> {
            let Some(state) = cx.ring_state(0) else { return Ok(()) };
            let mut queue = Queue::try_from(state).map_err(|_| Fault::Bug("state"))?;
            let (flag, memory) = (Arc::new(AtomicBool::new(false)), self.memory.clone());
            let stop = flag.clone();
            let thread = std::thread::spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    while let Some(chain) = queue.iter(&*memory).unwrap().next() {
                        queue.add_used(&*memory, chain.head_index(), 7).unwrap();
                    }
                    std::thread::yield_now();
                }
                queue
            });
            self.peer = Some((flag, thread));
            Ok(())
        }
        fn on_kick(&mut self, _: u16, _: &mut Cx<'_, Ram>) -> Result<(), Fault> {
            Ok(()) // the peer hears its own doorbell
        }
        fn drain(&mut self, cx: &mut Cx<'_, Ram>) -> Result<(), Fault> {
            if let Some(queue) = self.stop() {
                cx.take_back(0, queue.next_avail(), queue.next_used());
            }
            Ok(())
        }
        fn cancel(&mut self) {
            self.stop();
        }
    }
    impl VirtioDevice<Ram> for Away {
        fn describe(&self) -> Description {
            Description { device_type: 9, queue_sizes: vec![16], ..Default::default() }
        }
        fn reset(&mut self) {}
        fn persist(&self) -> Option<&dyn PersistDyn> {
            Some(self)
        }
    }
    impl Persist for Away {
        type State = NoState;
        fn save(&self) -> Result<NoState, SaveError> {
            Ok(NoState {})
        }
        fn restore(&self, _: NoState) -> Result<(), RestoreError> {
            Ok(())
        }
    }

    #[test]
    fn an_offloaded_ring_goes_away_and_comes_back() {
        let memory = ram(1 << 20);
        let make = || rig(Box::new(Away { memory: memory.clone(), peer: None }), &memory);
        let mut here = make();
        assert!(here.core.lane(0).unwrap().offloaded);
        let mut d = DriverRing::new(&memory, 0x10000, 16, false);
        here.bring_up(&[&d], 0);
        for round in 0..20 {
            for _ in 0..5 {
                d.add(&[BUFFER], false).unwrap();
            }
            while d.outstanding() != 0 {
                if let Some((_, written)) = d.take() {
                    assert_eq!(written, 7);
                }
                std::thread::yield_now();
            }
            here.core.pause().unwrap();
            if round % 2 == 0 {
                let state = here.core.save().unwrap();
                here = make();
                here.core.restore(state).unwrap();
            }
            d.add(&[BUFFER], false).unwrap();
            assert!(d.take().is_none(), "paused");
            here.core.resume();
        }
        here.core.set_status(0);
        assert_eq!(here.core.status(), 0);
    }
}

/// The guest never stops; the machine is paused, saved, thrown away and rebuilt, again and again.
#[test]
fn moves_under_load_lose_and_double_nothing() {
    let memory = ram(1 << 20);
    let make = || rig(Box::new(Echo::new(2, true)), &memory);
    let mut here = make();
    let drivers = [0x10000, 0x20000].map(|base| DriverRing::new(&memory, base, 64, true));
    here.bring_up(&[&drivers[0], &drivers[1]], F_EVENT_IDX);
    let current: Arc<Mutex<Arc<VirtioCore<Ram>>>> = Arc::new(Mutex::new(here.core.clone()));
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|s| {
        for (queue, mut d) in (0u16..).zip(drivers) {
            let (current, stop, done) = (current.clone(), &stop, &done);
            s.spawn(move || {
                let at = 0x40000 + 0x10000 * u64::from(queue);
                let mut sent = 0u64;
                let mut by_head = [0; 64];
                while !stop.load(Ordering::Relaxed) || d.outstanding() != 0 {
                    while !stop.load(Ordering::Relaxed) && d.outstanding() < 20 {
                        let slot = at + 64 * (sent % 64);
                        d.memory().write_obj(sent, GuestAddress(slot)).unwrap();
                        let bufs = [(slot, 8, 0), (slot + 16, 8, WRITE)];
                        let Some(head) = d.add(&bufs, false) else { break };
                        by_head[usize::from(head)] = sent;
                        sent += 1;
                    }
                    d.wants_kick();
                    let core = current.lock().unwrap().clone();
                    let _ = core.kick(queue);
                    // `take` fails on a head that comes back twice.
                    while let Some((head, written)) = d.take() {
                        let number = by_head[usize::from(head)];
                        let slot = at + 64 * (number % 64);
                        let answer: u64 = d.memory().read_obj(GuestAddress(slot + 16)).unwrap();
                        assert_eq!((written, answer ^ 0x0f0f_0f0f_0f0f_0f0f), (8, number));
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    d.want_interrupt_after(1);
                }
            });
        }
        for _ in 0..40 {
            std::thread::sleep(Duration::from_millis(2));
            here.core.pause().unwrap();
            let next = make();
            next.core.restore(here.core.save().unwrap()).unwrap();
            *current.lock().unwrap() = next.core.clone();
            next.core.resume();
            assert!(next.edges.queue(0) >= 1 && next.edges.queue(1) >= 1, "every queue is signalled once");
            here = next;
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(done.load(Ordering::Relaxed) > 1000);
    assert_eq!(here.core.status() & NEEDS_RESET, 0);
}
