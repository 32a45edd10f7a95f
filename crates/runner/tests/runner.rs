//! Devices on real threads: nothing is lost between doorbells, sources, pauses and resets.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_memory::Mem;
use drystone_runner::{Doorbells, Runner, RunnerError};
use drystone_state::{Component, PersistDyn};
use drystone_testkit::virtio::{DriverRing, Edges, MmioPort, Ram, Transport, WRITE, bring_up, ram, within};
use drystone_virtio::{
    Cx, Description, Doorbell, F_EVENT_IDX, Fault, Host, Mailbox, Mmio, MmioConfig, Postbox, Source, Timer,
    VirtioDevice, Worker, mailbox,
};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress};

const LIMIT: Duration = Duration::from_secs(120);

/// Answers every request with its lane's number, and counts what wakes it. What a message says is answered to all requests
/// from then on, and sets its timer.
struct Lane {
    number: u8,
    queues: Vec<u16>,
    woken: Arc<AtomicU32>,
    names: Arc<Mutex<Vec<String>>>,
    mailbox: Mailbox<u8>,
    timer: Timer,
    block: Arc<AtomicU32>,
}

impl Lane {
    fn serve<M: Mem>(&mut self, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        while let Some(number) = self.mailbox.take() {
            self.number = number;
            self.timer.set(Duration::from_millis(5));
        }
        if self.block.load(Ordering::SeqCst) != 0 {
            std::thread::sleep(Duration::from_millis(self.block.load(Ordering::SeqCst).into()));
        }
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let mut names = self.names.lock().unwrap();
        if !names.contains(&name) {
            names.push(name);
        }
        drop(names);
        for queue in &self.queues {
            let mut ring = cx.ring(*queue)?;
            while let Some(chain) = ring.pop()? {
                ring.write(&chain, 0, &[self.number])?;
                ring.complete(chain, 1)?;
            }
        }
        Ok(())
    }
}

impl<M: Mem> Worker<M> for Lane {
    fn start(&mut self, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.serve(cx)
    }
    fn on_kick(&mut self, _: u16, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.serve(cx)
    }
    fn on_ready(&mut self, token: u32, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        if token == 1 {
            self.woken.fetch_add(1, Ordering::SeqCst);
        }
        self.serve(cx)
    }
    fn sources(&self) -> Vec<Source> {
        vec![self.mailbox.source(0), self.timer.source(1)]
    }
}

/// Lane 0 has queue 0, lane 1 has queues 1 and 2.
struct Device {
    own: Lane,
    other: Option<Lane>,
}
impl<M: Mem> Worker<M> for Device {
    fn start(&mut self, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.own.serve(cx)
    }
    fn on_kick(&mut self, queue: u16, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.own.on_kick(queue, cx)
    }
    fn on_ready(&mut self, token: u32, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.own.on_ready(token, cx)
    }
    fn sources(&self) -> Vec<Source> {
        Worker::<M>::sources(&self.own)
    }
}
impl<M: Mem> VirtioDevice<M> for Device {
    fn describe(&self) -> Description {
        Description { device_type: 42, queue_sizes: vec![64; 3], ..Default::default() }
    }
    fn split(&mut self) -> Vec<(Vec<u16>, Box<dyn Worker<M>>)> {
        let other = self.other.take().unwrap();
        vec![(other.queues.clone(), Box::new(other))]
    }
    fn reset(&mut self) {}
    fn persist(&self) -> Option<&dyn PersistDyn> {
        None
    }
}

struct Rig {
    memory: Ram,
    port: MmioPort<Ram>,
    doorbells: Arc<Doorbells>,
    rings: Vec<DriverRing>,
    postboxes: Vec<Postbox<u8>>,
    woken: Arc<AtomicU32>,
    names: Arc<Mutex<Vec<String>>>,
    block: Arc<AtomicU32>,
}

const RINGS: u64 = 0x10_0000;
const BUFFERS: u64 = 0x1000;

impl Rig {
    fn new() -> Self {
        let memory = ram(0x20_0000);
        let (woken, names, block) = (Arc::default(), Arc::default(), Arc::default());
        let mut postboxes = Vec::new();
        let mut lane = |number, queues: &[u16]| {
            let (postbox, mailbox) = mailbox(64).unwrap();
            postboxes.push(postbox);
            let (woken, names, block) = (Arc::clone(&woken), Arc::clone(&names), Arc::clone(&block));
            let (queues, timer) = (queues.to_vec(), Timer::new().unwrap());
            Lane { number, queues, woken, names, mailbox, timer, block }
        };
        let device = Device { own: lane(1, &[0]), other: Some(lane(2, &[1, 2])) };
        let doorbells = Arc::new(Doorbells::new(3).unwrap());
        let place = MmioConfig { base: 0xd000_0000, gsi: 5, index: 0, shared_memory: vec![] };
        let host = Host::new(doorbells.clone());
        let mmio = Mmio::new(place, Box::new(device), memory.clone(), Arc::new(Edges::default()), host);
        let port = MmioPort(Arc::new(mmio.unwrap()));
        let mut rig = Self { memory, port, doorbells, rings: Vec::new(), postboxes, woken, names, block };
        rig.bring_up();
        rig
    }

    fn bring_up(&mut self) {
        let ring = |n| DriverRing::new(&self.memory, RINGS + n * 0x1_0000, 64, true);
        self.rings = (0..3u64).map(ring).collect();
        bring_up(&self.port, &self.rings.iter().collect::<Vec<_>>(), F_EVENT_IDX);
    }

    fn send(&mut self, queue: u16) {
        let ring = &mut self.rings[usize::from(queue)];
        let head = ring.add(&[(BUFFERS + u64::from(queue), 1, WRITE)], false);
        if head.is_some() && ring.wants_kick() {
            // As the hypervisor does with an ioeventfd.
            self.doorbells.event(queue).unwrap().write(1).unwrap();
        }
    }

    /// Waits until a queue has no request left, and returns what the last one was answered.
    fn settle(&mut self, queue: u16) -> u8 {
        let ring = &mut self.rings[usize::from(queue)];
        while ring.outstanding() > 0 {
            if ring.take().is_none() {
                std::thread::yield_now();
            }
        }
        self.memory.read_obj(GuestAddress(BUFFERS + u64::from(queue))).unwrap()
    }

    fn ask(&mut self, queue: u16) -> u8 {
        self.send(queue);
        self.settle(queue)
    }
}

fn threads(n: usize) -> Runner {
    Runner::new("lanes", NonZeroUsize::new(n).unwrap()).unwrap()
}

#[test]
fn each_queue_is_served_by_its_lane_on_a_named_thread() {
    within(LIMIT, || {
        for count in [1, 2, 5] {
            let (mut rig, runner) = (Rig::new(), threads(count));
            let _attached = runner.attach(rig.port.0.core(), &rig.doorbells).unwrap();
            assert_eq!([0, 1, 2].map(|queue| rig.ask(queue)), [1, 2, 2]);
            let mut names = rig.names.lock().unwrap().clone();
            names.retain(|name| name.starts_with("lanes-"));
            assert_eq!(names.len(), count.min(2), "{names:?}");
        }
    });
}

#[test]
fn more_threads_serve_what_comes_later() {
    within(LIMIT, || {
        let names = |rig: &Rig| {
            let mut names = rig.names.lock().unwrap().clone();
            names.retain(|name| name.starts_with("lanes-"));
            names.sort();
            names
        };
        for started in [true, false] {
            let one = NonZeroUsize::MIN;
            let runner = if started { threads(1) } else { Runner::idle("lanes", one).unwrap() };
            let (mut first, mut second, mut third) = (Rig::new(), Rig::new(), Rig::new());
            let _first = runner.attach(first.port.0.core(), &first.doorbells).unwrap();
            runner.grow(NonZeroUsize::new(3).unwrap()).unwrap();
            runner.grow(one).unwrap();
            assert_eq!(runner.threads(), 3, "none is taken away");
            let second_attached = runner.attach(second.port.0.core(), &second.doorbells).unwrap();
            runner.start().unwrap();
            let third_attached = runner.attach(third.port.0.core(), &third.doorbells).unwrap();
            for rig in [&mut first, &mut second, &mut third] {
                assert_eq!([0, 1, 2].map(|queue| rig.ask(queue)), [1, 2, 2]);
            }
            assert_eq!(names(&first), ["lanes-0"], "it stays where it is");
            assert_eq!((names(&second).len(), names(&third).len()), (2, 2));
            // What one thread runs does not depend on what others do.
            drop((second_attached, third_attached));
            Component::pause(&runner).unwrap();
            assert_eq!(first.ask(0), 1);
        }
    });
}

#[test]
fn nothing_is_lost_under_load_with_pauses_and_resets() {
    within(LIMIT, || {
        let (mut rig, runner) = (Rig::new(), threads(2));
        let _attached = runner.attach(rig.port.0.core(), &rig.doorbells).unwrap();
        for round in 0..300u32 {
            for n in 0..round % 97 {
                rig.send((n % 3) as u16);
            }
            match round % 5 {
                0 => {
                    rig.port.0.pause().unwrap();
                    Component::pause(&runner).unwrap();
                    let used: Vec<_> = rig.rings.iter().map(DriverRing::used_index).collect();
                    (0..3).for_each(|queue| rig.send(queue));
                    std::thread::yield_now();
                    let still: Vec<_> = rig.rings.iter().map(DriverRing::used_index).collect();
                    assert_eq!(used, still, "it served while it was paused");
                    rig.port.0.resume().unwrap();
                }
                1 => {
                    rig.port.set_status(0);
                    let used: Vec<_> = rig.rings.iter().map(DriverRing::used_index).collect();
                    std::thread::yield_now();
                    let still: Vec<_> = rig.rings.iter().map(DriverRing::used_index).collect();
                    assert_eq!(used, still, "it wrote after its reset");
                    rig.bring_up();
                }
                _ => {}
            }
            for queue in 0..3 {
                rig.settle(queue);
            }
        }
    });
}

#[test]
fn messages_and_timers_reach_their_worker() {
    within(LIMIT, || {
        let (mut rig, runner) = (Rig::new(), threads(1));
        let _attached = runner.attach(rig.port.0.core(), &rig.doorbells).unwrap();
        rig.postboxes[1].post(77).unwrap();
        while rig.woken.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        assert_eq!([0, 1, 2].map(|queue| rig.ask(queue)), [1, 77, 77]);
        // While paused nobody takes them; afterwards they are taken.
        rig.port.0.pause().unwrap();
        rig.postboxes[0].post(88).unwrap();
        rig.port.0.resume().unwrap();
        assert_eq!(rig.ask(0), 88);
    });
}

#[test]
fn what_is_no_longer_attached_is_not_run() {
    within(LIMIT, || {
        let (mut rig, runner) = (Rig::new(), threads(2));
        let attached = runner.attach(rig.port.0.core(), &rig.doorbells).unwrap();
        assert_eq!(rig.ask(1), 2);
        drop(attached);
        rig.send(1);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(rig.rings[1].take(), None);
        // It can be attached again, and what was rung meanwhile is heard.
        let again = runner.attach(rig.port.0.core(), &rig.doorbells).unwrap();
        assert_eq!(rig.settle(1), 2);
        // The threads outlive the runner for as long as they are needed.
        drop(runner);
        assert_eq!(rig.ask(2), 2);
        drop(again);
    });
}

#[test]
fn a_lane_without_doorbell_is_refused_and_nothing_is_left() {
    within(LIMIT, || {
        let (rig, runner) = (Rig::new(), threads(1));
        let few = Doorbells::new(2).unwrap();
        let refused = runner.attach(rig.port.0.core(), &few).err().unwrap();
        assert!(matches!(refused, RunnerError::NoDoorbell { lane: 1, queue: 2 }), "{refused}");
        // A second time on the same thread: its sources are registered already.
        let _attached = runner.attach(rig.port.0.core(), &rig.doorbells).unwrap();
        let twice = runner.attach(rig.port.0.core(), &rig.doorbells).err().unwrap();
        assert!(twice.to_string().starts_with("lane 0: cannot listen to source 0"), "{twice}");
        few.ring(17);
    });
}

#[test]
fn a_thread_that_is_stuck_in_a_worker_is_named() {
    within(LIMIT, || {
        let mut rig = Rig::new();
        let runner = Runner::with_patience("slow", NonZeroUsize::MIN, Duration::from_millis(20)).unwrap();
        let _attached = runner.attach(rig.port.0.core(), &rig.doorbells).unwrap();
        assert_eq!(rig.ask(0), 1);
        assert!(Component::pause(&runner).is_ok());
        rig.block.store(400, Ordering::SeqCst);
        rig.send(0);
        let start = Instant::now();
        let stuck = loop {
            match Component::pause(&runner) {
                Err(stuck) => break stuck.to_string(),
                Ok(()) => assert!(start.elapsed() < LIMIT),
            }
        };
        assert_eq!(stuck, "runner thread slow-0 is stuck in a worker");
        rig.block.store(0, Ordering::SeqCst);
        rig.settle(0);
        while Component::pause(&runner).is_err() {}
    });
}

#[test]
fn what_is_asked_before_there_are_threads_is_answered_once_there_are() {
    within(LIMIT, || {
        let (mut rig, runner) = (Rig::new(), Runner::idle("lanes", NonZeroUsize::MIN).unwrap());
        drop(runner.attach(rig.port.0.core(), &rig.doorbells).unwrap());
        let _attached = runner.attach(rig.port.0.core(), &rig.doorbells).unwrap();
        rig.send(0);
        Component::pause(&runner).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(rig.rings[0].take(), None, "somebody has served it");
        runner.start().unwrap();
        runner.start().unwrap();
        assert_eq!(rig.settle(0), 1);
        assert_eq!([1, 2].map(|queue| rig.ask(queue)), [2, 2]);
        // A loop that never had a thread ends as well.
        drop(Runner::idle("lanes", NonZeroUsize::MIN).unwrap());
    });
}
