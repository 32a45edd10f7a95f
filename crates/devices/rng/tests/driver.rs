//! A driver that we did not write, sources that fail, and moving.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_bus::{ManualClock, SystemClock};
use drystone_limit::{LimitConfig, Rate};
use drystone_rng::{Rng, RngConfig, RngHandle};
use drystone_state::{Component, Persist};
use drystone_testkit::virtio::{
    Arena, DriverRing, Edges, Foreign, ForeignHal, Log, MmioPort, Pump, Ram, Transport, WRITE, bring_up, ram,
    within,
};
use drystone_virtio::{Host, Mmio, MmioConfig, Next, Source};
use std::io::{ErrorKind, Read};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use virtio_drivers::device::rng::VirtIORng;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

struct Machine {
    port: MmioPort<Ram>,
    pump: Arc<Pump>,
    log: Arc<Log>,
    handle: RngHandle,
    clock: Arc<ManualClock>,
}

fn machine(memory: &Ram, source: Box<dyn Read + Send>) -> Machine {
    let (pump, log) = (Arc::new(Pump::default()), Arc::new(Log::default()));
    let clock = Arc::new(ManualClock::default());
    let (rng, handle) = Rng::new(source, LimitConfig::default(), clock.clone()).unwrap();
    let config = MmioConfig { base: 0xd000_0000, gsi: 5, index: 0, shared_memory: vec![] };
    let host = Host { observer: log.clone(), ..Host::new(pump.clone()) };
    let mmio = Mmio::new(config, Box::new(rng), memory.clone(), Arc::new(Edges::default()), host).unwrap();
    Machine { port: MmioPort(Arc::new(mmio)), pump, log, handle, clock }
}

impl Machine {
    fn kick(&self) {
        self.port.notify(0);
        self.pump.run(self.port.0.core(), 64);
    }
    fn source(&self) -> Source {
        self.port.0.core().lane(0).unwrap().sources[0].clone()
    }
    /// Whether it wakes up by itself.
    fn fires(&self) -> bool {
        let epoll = Epoll::new().unwrap();
        let event = EpollEvent::new(EventSet::IN, 0);
        epoll.ctl(ControlOperation::Add, self.source().fd.as_raw_fd(), event).unwrap();
        epoll.wait(30_000, &mut [event]).unwrap() == 1
    }
}

/// 0, 1, 2, …
struct Count(u8);
impl Read for Count {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        for byte in out.iter_mut() {
            *byte = self.0;
            self.0 = self.0.wrapping_add(1);
        }
        Ok(out.len())
    }
}

#[test]
fn a_foreign_driver_gets_the_bytes_of_the_source() {
    within(Duration::from_secs(120), || {
        let memory = ram(4 << 20);
        let Machine { port, pump, handle, .. } = machine(&memory, Box::new(Count(0)));
        let _arena = Arena::new(&memory, 0x10_0000, 4 << 20);
        let core = port.0.core().clone();
        let transport = Foreign::new(port, move || pump.run(&core, 64));
        let mut driver = VirtIORng::<ForeignHal, _>::new(transport).unwrap();
        let mut expected = 0u8;
        for len in [1, 16, 300, 1024] {
            let mut got = vec![0xee; len];
            assert_eq!(driver.request_entropy(&mut got).unwrap(), len);
            for byte in got {
                assert_eq!(byte, expected);
                expected = expected.wrapping_add(1);
            }
        }
        let counters = handle.counters();
        assert_eq!((counters.requests.get(), counters.bytes.get(), counters.errors.get()), (4, 1341, 0));
    });
}

#[test]
fn a_request_is_never_longer_than_it_may_and_one_without_room_is_answered_too() {
    let memory = ram(1 << 20);
    let m = machine(&memory, Box::new(Count(1)));
    let mut d = DriverRing::new(&memory, 0x10000, 16, false);
    bring_up(&m.port, &[&d], 0);
    d.add(&[(0x40000, 700, WRITE), (0x50000, 0x1_0000, WRITE)], false).unwrap();
    d.add(&[(0x40000, 8, 0)], false).unwrap();
    m.kick();
    assert_eq!((d.take().unwrap().1, d.take().unwrap().1), (1024, 0));
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0x50000 + 323)).unwrap(), 0, "1024 % 256");
    let mut rest = [0; 64];
    memory.read_slice(&mut rest, GuestAddress(0x50000 + 324)).unwrap();
    assert_eq!(rest, [0; 64]);
    assert_eq!(m.port.status(), 0x0f);
}

/// Fails, in the way that its number says, until it is told to work.
struct Fails(Arc<AtomicU8>);
impl Read for Fails {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        match self.0.load(Ordering::SeqCst) {
            0 => Count(7).read(out),
            1 => Err(ErrorKind::PermissionDenied.into()),
            2 => Err(ErrorKind::Interrupted.into()), // for ever
            3 => Ok(0),
            // Some, and then none.
            n => {
                self.0.store(n - 3, Ordering::SeqCst);
                out[..3].copy_from_slice(&[9; 3]);
                Ok(3)
            }
        }
    }
}

#[test]
fn a_source_that_fails_costs_the_guest_nothing_but_time() {
    for how in [1, 2, 3] {
        let memory = ram(1 << 20);
        let mood = Arc::new(AtomicU8::new(how));
        let m = machine(&memory, Box::new(Fails(mood.clone())));
        let mut d = DriverRing::new(&memory, 0x10000, 16, false);
        bring_up(&m.port, &[&d], 0);
        for _ in 0..2 {
            d.add(&[(0x40000, 8, WRITE)], false).unwrap();
        }
        m.kick();
        assert_eq!(
            (d.used_index(), m.port.status(), m.handle.counters().errors.get()),
            (0, 0x0f, 1),
            "no fault, no answer"
        );
        let said = m.log.take();
        assert!(said.len() == 1 && said[0].starts_with("reading random bytes from the host: "), "{said:?}");
        // It is asked again after a while, of itself.
        let source = m.source();
        assert!(m.fires());
        assert_eq!(
            (m.port.0.core().ready(0, source.token), m.handle.counters().errors.get()),
            (Next::Idle, 2)
        );
        // A pause is not held up by it, and whoever restores it serves what is in the ring.
        m.port.0.pause().unwrap();
        let state = m.port.0.save().unwrap();
        m.port.0.resume().unwrap();
        mood.store(0, Ordering::SeqCst);
        assert!(m.fires());
        let _ = m.port.0.core().ready(0, source.token);
        assert_eq!((d.take().unwrap().1, d.take().unwrap().1), (8, 8));
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0x40000)).unwrap(), 0x0e0d_0c0b_0a09_0807);
        drop(state);
    }
}

#[test]
fn what_there_was_before_the_failure_is_given() {
    let memory = ram(1 << 20);
    let mood = Arc::new(AtomicU8::new(4)); // three bytes, then a failure
    let m = machine(&memory, Box::new(Fails(mood)));
    let mut d = DriverRing::new(&memory, 0x10000, 16, false);
    bring_up(&m.port, &[&d], 0);
    d.add(&[(0x40000, 8, WRITE)], false).unwrap();
    d.add(&[(0x40000, 8, WRITE)], false).unwrap();
    m.kick();
    assert_eq!((d.take().unwrap().1, d.take()), (3, None));
    assert_eq!((m.log.take().len(), m.handle.counters().bytes.get()), (1, 3));
}

#[test]
fn requests_in_the_ring_go_along_when_the_machine_moves() {
    let memory = ram(1 << 20);
    let old = machine(&memory, Box::new(Fails(Arc::new(AtomicU8::new(1)))));
    let mut d = DriverRing::new(&memory, 0x10000, 16, false);
    bring_up(&old.port, &[&d], 0);
    d.add(&[(0x40000, 8, WRITE)], false).unwrap();
    old.kick();
    old.port.0.pause().unwrap();
    let blob = old.port.0.persist().unwrap().save_blob().unwrap();
    let new = machine(&memory, Box::new(Count(0)));
    new.port.0.persist().unwrap().restore_blob(&blob).unwrap();
    new.port.0.resume().unwrap();
    new.pump.run(new.port.0.core(), 8);
    assert_eq!(d.take().unwrap().1, 8);
}

#[test]
fn a_limit_holds_requests_back_and_changes_while_they_wait() {
    let memory = ram(1 << 20);
    let m = machine(&memory, Box::new(Count(0)));
    let mut d = DriverRing::new(&memory, 0x10000, 16, false);
    let slow = |per_second| LimitConfig { bandwidth: Rate::new(per_second), operations: None };
    m.handle.set_limit(slow(1000)); // and a burst of 50
    assert_eq!(m.handle.limit(), slow(1000));
    // The device forgets that the limit woke it.
    bring_up(&m.port, &[&d], 0);
    for _ in 0..3 {
        d.add(&[(0x40000, 50, WRITE)], false).unwrap();
    }
    m.kick();
    assert_eq!((d.take().unwrap().1, d.take(), m.handle.counters().throttled.get()), (50, None, 1));
    assert!(m.fires(), "nobody else looks at what waits");
    let wake = |m: &Machine| {
        assert_eq!(m.port.0.core().ready(0, m.source().token), Next::Idle);
    };
    m.clock.advance(Duration::from_millis(49));
    wake(&m);
    assert_eq!(d.take(), None);

    // While the machine is paused no time passes, and the request is in the ring.
    m.port.0.pause().unwrap();
    let state = m.port.0.save().unwrap();
    assert_eq!(state.core.queues[0].next_avail, 1);
    m.clock.advance(Duration::from_secs(3600));
    m.port.0.resume().unwrap();
    m.kick();
    assert_eq!(d.take(), None, "an hour's pause is no rest");
    m.clock.advance(Duration::from_millis(1));
    wake(&m);
    assert_eq!((d.take().unwrap().1, d.take()), (50, None));
    m.handle.set_limit(LimitConfig::default());
    wake(&m);
    assert_eq!(d.take().unwrap().1, 50, "nothing holds it any more");

    // A reset takes the time of what it drops with it.
    m.handle.set_limit(slow(1000));
    for _ in 0..2 {
        d.add(&[(0x40000, 50, WRITE)], false).unwrap();
    }
    m.kick();
    d = DriverRing::new(&memory, 0x10000, 16, false);
    bring_up(&m.port, &[&d], 0);
    d.add(&[(0x40000, 50, WRITE)], false).unwrap();
    m.kick();
    assert_eq!(d.take(), None, "a reset is no burst");
    m.clock.advance(Duration::from_millis(50));
    wake(&m);
    assert_eq!(d.take().unwrap().1, 50);
}

/// A source that says it has read more than it was asked for.
#[test]
fn a_source_that_lies_is_not_believed() {
    struct Liar;
    impl Read for Liar {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            Ok(out.len() + 1000)
        }
    }
    let memory = ram(1 << 20);
    let m = machine(&memory, Box::new(Liar));
    let mut d = DriverRing::new(&memory, 0x10000, 16, false);
    bring_up(&m.port, &[&d], 0);
    d.add(&[(0x40000, 8, WRITE)], false).unwrap();
    m.kick();
    assert_eq!((d.take().unwrap().1, m.port.status()), (8, 0x0f));
}

#[test]
fn it_reads_the_hosts_random_bytes_and_says_what_it_cannot_open() {
    let memory = ram(1 << 20);
    let seen: Mutex<Vec<u64>> = Mutex::default();
    let (rng, _) = Rng::open(&RngConfig::default(), Arc::new(SystemClock::new())).unwrap();
    let pump = Arc::new(Pump::default());
    let config = MmioConfig { base: 0xd000_0000, gsi: 5, index: 0, shared_memory: vec![] };
    let host = Host::new(pump.clone());
    let mmio = Mmio::new(config, Box::new(rng), memory.clone(), Arc::new(Edges::default()), host).unwrap();
    let port = MmioPort(Arc::new(mmio));
    let mut d = DriverRing::new(&memory, 0x10000, 16, false);
    bring_up(&port, &[&d], 0);
    for _ in 0..8 {
        d.add(&[(0x40000, 8, WRITE)], false).unwrap();
        port.notify(0);
        pump.run(port.0.core(), 8);
        assert_eq!(d.take().unwrap().1, 8);
        seen.lock().unwrap().push(memory.read_obj(GuestAddress(0x40000)).unwrap());
    }
    let mut seen = seen.into_inner().unwrap();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 8, "eight equal in 2^64 are no accident");
    let config = RngConfig { source: "/nonexistent".into(), ..RngConfig::default() };
    let error = Rng::open(&config, Arc::new(SystemClock::new())).err().unwrap().to_string();
    assert!(error.starts_with("entropy device: cannot open /nonexistent: "), "{error}");
}
