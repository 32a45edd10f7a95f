//! An engine that has many operations in flight and ends them in any order.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_block::{
    Block, BlockConfig, BlockHandle, Done, Engine, EngineError, Host, Job, OnIoError, Operation,
};
use drystone_bus::SystemClock;
use drystone_limit::{LimitConfig, Rate};
use drystone_state::{Component, Persist};
use drystone_testkit::block::{DiskMachine, F_CONFIG_WCE, F_FLUSH, FEATURES, IN, OUT};
use drystone_testkit::virtio::{DriverRing, Edges, MmioPort, Pump, Ram, Transport, WRITE, bring_up, ram};
use drystone_virtio::{Mmio, MmioConfig, MmioState};
use std::io;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use vm_memory::{Bytes, GuestAddress};

/// What the test makes of the engine.
#[derive(Default)]
struct Control {
    submitted: Vec<Operation>,
    /// How operations end, by their offset; those that are not here are still in flight.
    ends: Vec<(u64, Result<(), ()>)>,
}

struct Slow {
    control: Arc<Mutex<Control>>,
    held: Vec<Job<Ram>>,
}

fn offset(operation: Operation) -> u64 {
    match operation {
        Operation::Read { offset, .. } | Operation::Write { offset, .. } => offset,
        _ => 0,
    }
}

impl Engine<Ram> for Slow {
    fn has_room(&self) -> bool {
        self.held.len() < 4
    }
    fn submit(&mut self, job: Job<Ram>) {
        self.control.lock().unwrap().submitted.push(job.operation);
        self.held.push(job);
    }
    fn reap(&mut self) -> Option<Done<Ram>> {
        let mut control = self.control.lock().unwrap();
        let ends = |j: &Job<Ram>| control.ends.iter().position(|(at, _)| *at == offset(j.operation));
        let (held, end) = self.held.iter().enumerate().find_map(|(n, j)| Some((n, ends(j)?)))?;
        let (_, result) = control.ends.remove(end);
        let failed = |()| EngineError::Host(io::Error::other("broken"));
        Some(Done { job: self.held.remove(held), result: result.map_err(failed) })
    }
    fn cancel(&mut self) {
        self.held.clear();
    }
}

struct Rig {
    memory: Ram,
    port: MmioPort<Ram>,
    handle: BlockHandle,
    pump: Arc<Pump>,
    ring: DriverRing,
    control: Arc<Mutex<Control>>,
    failures: Arc<Mutex<Vec<OnIoError>>>,
}

impl Rig {
    fn new(on_io_error: OnIoError) -> Self {
        Self::limited(on_io_error, LimitConfig::default())
    }

    fn limited(on_io_error: OnIoError, limit: LimitConfig) -> Self {
        let mut rig = Self::untouched(on_io_error, limit);
        rig.start(FEATURES);
        rig
    }

    /// No driver has seen it.
    fn untouched(on_io_error: OnIoError, limit: LimitConfig) -> Self {
        let (control, failures): (Arc<Mutex<Control>>, Arc<Mutex<Vec<_>>>) = Default::default();
        let config = BlockConfig { on_io_error, limit, ..BlockConfig::new("root", "not looked at") };
        let told = failures.clone();
        let on_failure = Arc::new(move |f: &drystone_block::IoFailure| told.lock().unwrap().push(f.policy));
        let host = Host { clock: Arc::new(SystemClock::new()), on_failure, group: None };
        let engine = Slow { control: control.clone(), held: Vec::new() };
        let (device, handle) = Block::with_engines(&config, 1 << 20, vec![Box::new(engine)], host).unwrap();
        let (memory, pump) = (ram(0x4_0000), Arc::new(Pump::default()));
        let place = MmioConfig { base: 0xd000_0000, gsi: 5, index: 0, shared_memory: vec![] };
        let host = drystone_virtio::Host::new(pump.clone());
        let mmio = Mmio::new(place, Box::new(device), memory.clone(), Arc::new(Edges::default()), host);
        let port = MmioPort(Arc::new(mmio.unwrap()));
        let ring = DriverRing::new(&memory, 0x1_0000, 64, true);
        Self { memory, port, handle, pump, ring, control, failures }
    }

    fn start(&mut self, features: u64) {
        self.ring = DriverRing::new(&self.memory, 0x1_0000, 64, true);
        bring_up(&self.port, &[&self.ring], features);
        self.serve();
    }

    fn serve(&self) {
        self.pump.run(self.port.0.core(), 100);
    }

    /// A request of one sector, at its own place in guest memory. Returns its head and where its status is.
    fn ask(&mut self, kind: u32, sector: u64) -> (u16, u64) {
        let at = 0x1000 + sector * 0x400;
        self.memory.write_slice(&DiskMachine::head(kind, sector, &[]), GuestAddress(at)).unwrap();
        self.memory.write_slice(&[0xee], GuestAddress(at + 0x300)).unwrap();
        let data = (at + 0x100, 512, if kind == IN { WRITE } else { 0 });
        let head = self.ring.add(&[(at, 16, 0), data, (at + 0x300, 1, WRITE)], false).unwrap();
        self.port.notify(0);
        self.serve();
        (head, at + 0x300)
    }

    fn end(&self, sector: u64, result: Result<(), ()>) {
        self.control.lock().unwrap().ends.push((sector * 512, result));
        self.port.notify(0);
        self.serve();
    }

    fn taken(&mut self) -> Vec<u16> {
        std::iter::from_fn(|| self.ring.take().map(|(head, _)| head)).collect()
    }

    fn status(&self, at: u64) -> u8 {
        self.memory.read_obj(GuestAddress(at)).unwrap()
    }
}

#[test]
fn operations_end_in_any_order_and_no_more_are_begun_than_there_is_room_for() {
    let mut rig = Rig::new(OnIoError::Report);
    let heads: Vec<u16> = (1..7).map(|n| rig.ask(IN, n).0).collect();
    assert_eq!((rig.taken(), rig.control.lock().unwrap().submitted.len()), (vec![], 4));
    rig.end(3, Ok(()));
    assert_eq!((rig.taken(), rig.control.lock().unwrap().submitted.len()), (vec![heads[2]], 5));
    for n in [6, 5, 4, 2, 1] {
        rig.end(n, Ok(()));
    }
    let mut rest = rig.taken();
    rest.sort_unstable();
    assert_eq!(rest, [heads[0], heads[1], heads[3], heads[4], heads[5]]);
}

#[test]
fn a_pause_completes_what_is_in_flight_and_a_reset_drops_it() {
    let mut rig = Rig::new(OnIoError::Report);
    let (first, _) = rig.ask(IN, 1);
    let (second, status) = rig.ask(OUT, 2);
    rig.control.lock().unwrap().ends.extend([(512, Ok(())), (1024, Err(()))]);
    rig.port.0.pause().unwrap();
    assert_eq!((rig.taken(), rig.status(status)), (vec![first, second], 1));
    rig.port.0.resume().unwrap();
    rig.serve();
    rig.ask(IN, 3);
    rig.start(FEATURES);
    rig.end(3, Ok(()));
    assert_eq!((rig.taken(), rig.port.status()), (vec![], 0x0f));
}

#[test]
fn failed_requests_are_tried_again_in_their_order() {
    let mut rig = Rig::new(OnIoError::Pause);
    let heads = [rig.ask(IN, 1).0, rig.ask(IN, 2).0];
    rig.end(2, Err(()));
    rig.end(1, Err(()));
    assert_eq!((rig.taken(), &**rig.failures.lock().unwrap()), (vec![], &[OnIoError::Pause; 2][..]));
    rig.control.lock().unwrap().submitted.clear();
    rig.port.0.pause().unwrap();
    rig.port.0.resume().unwrap();
    rig.serve();
    let again: Vec<u64> = rig.control.lock().unwrap().submitted.iter().map(|o| offset(*o)).collect();
    assert_eq!(again, [512, 1024]);
    rig.end(1, Ok(()));
    rig.end(2, Ok(()));
    assert_eq!(rig.taken(), heads);
}

#[test]
fn failed_writes_may_be_ignored_and_failed_reads_are_reported() {
    let mut rig = Rig::new(OnIoError::Ignore);
    let (write, wrote) = rig.ask(OUT, 1);
    let (read, got) = rig.ask(IN, 2);
    rig.end(1, Err(()));
    rig.end(2, Err(()));
    assert_eq!((rig.taken(), rig.status(wrote), rig.status(got)), (vec![write, read], 0, 1));
    assert!(rig.failures.lock().unwrap().is_empty());
}

#[test]
fn what_is_in_flight_when_a_disk_is_pulled_ends_and_nothing_more_is_begun() {
    let mut rig = Rig::new(OnIoError::Pause);
    let (first, good) = rig.ask(IN, 1);
    let (second, bad) = rig.ask(IN, 2);
    rig.handle.pull();
    let (third, refused) = rig.ask(IN, 3);
    rig.end(1, Ok(()));
    rig.end(2, Err(()));
    assert_eq!(rig.taken(), [third, first, second]);
    assert_eq!([good, bad, refused].map(|at| rig.status(at)), [0, 1, 1]);
    assert!(rig.failures.lock().unwrap().is_empty(), "it is no reason to pause the machine");
    assert_eq!(rig.control.lock().unwrap().submitted.len(), 2);
}

/// The guest does not hear of it: it is tried again, here or elsewhere, before all others.
#[test]
fn failed_requests_that_later_ones_have_overtaken_are_tried_again_first() {
    let mut rig = Rig::new(OnIoError::Stop);
    let heads: Vec<u16> = (1..5).map(|n| rig.ask(IN, n).0).collect();
    rig.end(3, Err(()));
    rig.end(1, Err(()));
    rig.end(4, Ok(()));
    rig.end(2, Ok(()));
    let late = rig.ask(IN, 5).0;
    assert_eq!(rig.taken(), [heads[3], heads[1]]);
    for _ in 0..3 {
        rig.control.lock().unwrap().submitted.clear();
        rig.port.0.pause().unwrap();
        assert!(rig.taken().is_empty(), "nothing is told to the guest");
        let state: MmioState = rig.port.0.save().unwrap();
        assert_eq!(state.core.queues[0].returned, [heads[0], heads[2]]);
        rig.port.0.resume().unwrap();
        rig.serve();
        let again: Vec<u64> = rig.control.lock().unwrap().submitted.iter().map(|o| offset(*o)).collect();
        assert_eq!(again, [512, 3 * 512, 5 * 512]);
        rig.end(1, Err(()));
        rig.end(3, Err(()));
        rig.end(5, Err(()));
    }
    rig.port.0.pause().unwrap();
    rig.port.0.resume().unwrap();
    rig.serve();
    for sector in [1, 3, 5] {
        rig.end(sector, Ok(()));
    }
    assert_eq!(rig.taken(), [heads[0], heads[2], late]);
}

#[test]
fn a_saved_queue_whose_requests_cannot_be_is_refused() {
    let mut rig = Rig::new(OnIoError::Stop);
    let heads: Vec<u16> = (1..4).map(|n| rig.ask(IN, n).0).collect();
    for (sector, result) in [(1, Err(())), (2, Err(())), (3, Ok(()))] {
        rig.end(sector, result);
    }
    rig.port.0.pause().unwrap();
    let good: MmioState = rig.port.0.save().unwrap();
    let restored = |returned: &[u16]| {
        let mut state = good.clone();
        state.core.queues[0].returned = returned.to_vec();
        let rig = Rig::untouched(OnIoError::Stop, LimitConfig::default());
        rig.memory.write_slice(&[0; 16], GuestAddress(0x1_0000)).unwrap();
        rig.port.0.restore(state).map_err(|e| e.to_string())
    };
    let (first, second) = (heads[0], heads[1]);
    assert_eq!(restored(&[first, second]), Ok(()));
    for (returned, why) in [
        (&[][..], "in flight"),
        (&[first], "in flight"),
        (&[first, second, heads[2]], "in flight"),
        (&[first, first], "cannot be"),
        (&[first, 64], "cannot be"),
    ] {
        let refused = restored(returned).unwrap_err();
        assert!(refused.contains("queue 0 has requests") && refused.contains(why), "{returned:?}: {refused}");
    }
}

/// Nothing has overtaken it: the later one never began.
#[test]
fn a_failed_request_goes_back_before_one_that_waits_for_its_limit() {
    let burst = NonZeroU64::new(512);
    let bandwidth = Rate::new(1).map(|slow| Rate { burst, ..slow });
    let mut rig = Rig::limited(OnIoError::Pause, LimitConfig { bandwidth, operations: None });
    rig.ask(IN, 1);
    rig.ask(IN, 2);
    assert_eq!(rig.control.lock().unwrap().submitted.len(), 1);
    rig.end(1, Err(()));
    rig.port.0.pause().unwrap();
    assert!(rig.taken().is_empty(), "it is tried again");
}

#[test]
fn a_driver_that_cannot_flush_or_has_no_cache_has_its_writes_go_through() {
    for (features, cache, wanted) in [
        (F_FLUSH, 1, false),
        (0, 1, true),
        (F_FLUSH | F_CONFIG_WCE, 1, false),
        (F_FLUSH | F_CONFIG_WCE, 0, true),
        (F_CONFIG_WCE, 1, false),
    ] {
        let mut rig = Rig::new(OnIoError::Report);
        rig.start(features);
        rig.port.config_write(32, &[cache]);
        rig.ask(OUT, 1);
        let wrote = rig.control.lock().unwrap().submitted[0];
        assert_eq!(
            wrote,
            Operation::Write { offset: 512, len: 512, through: wanted },
            "{features:#x} {cache}"
        );
    }
}
