//! Chains a second through the virtio core, next to the plain virtio-queue loop doing the same work.
//!
//! Work of a chain: two descriptors; the device reads 16 bytes and writes 8. Serving is timed by the thread's CPU time, so that a
//! host that is busy with something else counts for little; programs take turns, and medians are told.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used
)]

use drystone_memory::Mem;
use drystone_state::PersistDyn;
use drystone_testkit::virtio::{CorePort, DriverRing, Edges, Pump, Ram, WRITE, bring_up, ram};
use drystone_virtio::{
    Cx, Description, Doorbell, F_EVENT_IDX, F_INDIRECT_DESC, Fault, Host, Interrupts, Next, VirtioCore,
    VirtioDevice, Worker,
};
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};
use virtio_queue::{Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Bytes, GuestMemory};

const TURNS: usize = 15;
const BATCHES: [u16; 4] = [1, 8, 32, 128];

/// A device whose every queue has a worker of its own. With `view`, its accesses go through `View`.
struct Sum {
    queues: u16,
    view: bool,
}
struct SumQueue(bool);

impl<M: Mem> Worker<M> for SumQueue {
    fn on_kick(&mut self, queue: u16, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        let mut ring = cx.ring(queue)?;
        if self.0 {
            let mut memory = ring.view();
            while let Some(chain) = ring.pop()? {
                let (from, to) = (chain.readable()[0].addr, chain.writable()[0].addr);
                let value: u128 = memory.read(from)?;
                memory.write(value as u64 + 1, to)?;
                ring.complete(chain, 8)?;
            }
        } else {
            while let Some(chain) = ring.pop()? {
                let mut value = [0; 16];
                ring.read(&chain, 0, &mut value)?;
                let sum = u128::from_le_bytes(value) as u64 + 1;
                ring.write(&chain, 0, &sum.to_le_bytes())?;
                ring.complete(chain, 8)?;
            }
        }
        Ok(())
    }
}
impl<M: Mem> Worker<M> for Sum {
    fn on_kick(&mut self, _: u16, _: &mut Cx<'_, M>) -> Result<(), Fault> {
        Err(Fault::Bug("every queue was handed out"))
    }
}
impl<M: Mem> VirtioDevice<M> for Sum {
    fn describe(&self) -> Description {
        Description { device_type: 42, queue_sizes: vec![256; self.queues.into()], ..Default::default() }
    }
    fn split(&mut self) -> Vec<(Vec<u16>, Box<dyn Worker<M>>)> {
        let worker = |queue| (vec![queue], Box::new(SumQueue(self.view)) as Box<dyn Worker<M>>);
        (0..self.queues).map(worker).collect()
    }
    fn reset(&mut self) {}
    fn persist(&self) -> Option<&dyn PersistDyn> {
        None
    }
}

fn core(memory: &Ram, queues: u16, view: bool, doorbell: Arc<dyn Doorbell>) -> Arc<VirtioCore<Ram>> {
    let device = Box::new(Sum { queues, view });
    let core =
        VirtioCore::new(device, memory.clone(), Arc::new(Edges::default()), Host::new(doorbell)).unwrap();
    Arc::new(core)
}

/// What a device over plain virtio-queue does: one iterator a pass, one interrupt decision a batch.
fn bare<G: GuestMemory>(queue: &mut Queue, memory: &G, edges: &Edges, heads: &mut Vec<u16>) {
    loop {
        queue.disable_notification(memory).unwrap();
        for mut chain in queue.iter(memory).unwrap() {
            let (from, to) = (chain.next().unwrap(), chain.next().unwrap());
            assert!(!from.is_write_only() && to.is_write_only());
            let value: u128 = memory.read_obj(from.addr()).unwrap();
            memory.write_obj(value as u64 + 1, to.addr()).unwrap();
            heads.push(chain.head_index());
        }
        let any = !heads.is_empty();
        for head in heads.drain(..) {
            queue.add_used(memory, head, 8).unwrap();
        }
        if any && queue.needs_notification(memory).unwrap() {
            Interrupts::queue(edges, 0);
        }
        if !queue.enable_notification(memory).unwrap() {
            break;
        }
    }
}

fn queue_of(ring: &DriverRing) -> Queue {
    let state = QueueState {
        max_size: 256,
        size: ring.size(),
        ready: true,
        event_idx_enabled: true,
        desc_table: ring.descriptors(),
        avail_ring: ring.available(),
        used_ring: ring.used(),
        next_avail: 0,
        next_used: 0,
    };
    Queue::try_from(state).unwrap()
}

/// A way of serving one ring: by name, and made anew for a ring.
type Serve = Box<dyn FnMut() + Send>;
#[derive(Clone, Copy)]
enum Way {
    Bare,
    Core,
    CoreView,
}
impl Way {
    const ALL: [Way; 3] = [Way::Bare, Way::Core, Way::CoreView];
    fn name(self) -> &'static str {
        match self {
            Way::Bare => "virtio-queue, batched",
            Way::Core => "core",
            Way::CoreView => "core, device uses View",
        }
    }
    /// Rings for `queues` queues, and what serves each.
    fn start(self, memory: &Ram, queues: u16) -> Vec<(DriverRing, Serve)> {
        let rings: Vec<_> =
            (0..queues).map(|q| DriverRing::new(memory, 0x10000 * (1 + u64::from(q)), 256, true)).collect();
        if let Way::Bare = self {
            let serve = |ring: DriverRing| {
                let (mut queue, memory, edges) = (queue_of(&ring), memory.clone(), Edges::default());
                let mut heads = Vec::new();
                (ring, Box::new(move || bare(&mut queue, &*memory, &edges, &mut heads)) as Serve)
            };
            return rings.into_iter().map(serve).collect();
        }
        let core = core(memory, queues, matches!(self, Way::CoreView), Arc::new(Pump::default()));
        bring_up(&CorePort(core.clone()), &rings.iter().collect::<Vec<_>>(), F_EVENT_IDX | F_INDIRECT_DESC);
        let serve = |(queue, ring): (u16, DriverRing)| {
            let core = core.clone();
            let _ = core.kick(queue);
            (
                ring,
                Box::new(move || {
                    let _ = black_box(core.kick(queue));
                }) as Serve,
            )
        };
        (0..queues).zip(rings).map(serve).collect()
    }
}

fn fill(ring: &mut DriverRing, n: u16) {
    for i in 0..u64::from(n) {
        // Beside the rings: 16 to read, 64 to write.
        let buffer = ring.descriptors() + 0xd000 + 128 * (i % 64);
        ring.add(&[(buffer, 16, 0), (buffer + 64, 64, WRITE)], false).expect("room");
    }
    ring.want_interrupt_after(n);
}
fn take(ring: &mut DriverRing, n: u16) {
    let mut got = 0;
    while ring.take().is_some() {
        got += 1;
    }
    assert_eq!(got, n);
}

fn cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// CPU nanoseconds a chain over some batches of `n`; the cost of looking at the clock is taken off.
fn turn(ring: &mut DriverRing, serve: &mut dyn FnMut(), n: u16, chains: u32, clock: f64) -> f64 {
    let rounds = chains / u32::from(n);
    let mut spent = Duration::ZERO;
    for _ in 0..rounds {
        fill(ring, n);
        let begun = cpu();
        serve();
        spent += cpu() - begun;
        take(ring, n);
    }
    (spent.as_nanos() as f64 - clock * f64::from(rounds)) / f64::from(rounds * u32::from(n))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn clock_cost() -> f64 {
    let pair = |_| {
        let begun = cpu();
        (cpu() - begun).as_nanos() as f64
    };
    median((0..2001).map(pair).collect())
}

fn one_queue(memory: &Ram, chains: u32) {
    let clock = clock_cost();
    println!("CPU ns a chain, 1 queue, medians of {TURNS} turns; a clock pair of {clock:.0} ns is taken off");
    let mut ways: Vec<_> = Way::ALL.iter().map(|way| (*way, vec![Vec::new(); BATCHES.len()])).collect();
    for _ in 0..TURNS {
        for (way, figures) in &mut ways {
            let (mut ring, mut serve) = way.start(memory, 1).remove(0);
            for (n, figures) in BATCHES.iter().zip(figures) {
                figures.push(turn(&mut ring, &mut serve, *n, chains, clock));
            }
        }
    }
    println!("{:<28}{}", "chains a batch", BATCHES.map(|n| format!("{n:>9}")).concat());
    let rows: Vec<Vec<f64>> = ways.into_iter().map(|(_, f)| f.into_iter().map(median).collect()).collect();
    for (way, row) in Way::ALL.iter().zip(&rows) {
        println!("{:<28}{}", way.name(), row.iter().map(|v| format!("{v:>9.1}")).collect::<String>());
    }
    for (way, row) in Way::ALL.iter().zip(&rows).skip(1) {
        let ratios = rows[0].iter().zip(row).map(|(bare, v)| format!("{:>8.2}x", bare / v));
        println!("{:<28}{}", format!("{}: times faster", way.name()), ratios.collect::<String>());
    }
}

/// As many threads as queues, batches of 32: chains a second of all of them, in CPU time of serving and on the clock.
fn queues(memory: &Ram, chains: u32) {
    println!("\nmillions of chains a second, batch 32: by serving CPU time / on the clock, driver included");
    for way in Way::ALL {
        for count in [1, 2, 4] {
            let mut all = (Vec::new(), Vec::new());
            for _ in 0..TURNS / 3 {
                let barrier = Barrier::new(count.into());
                let begun = Instant::now();
                let each: Vec<f64> = std::thread::scope(|s| {
                    let run = |(mut ring, mut serve): (DriverRing, Serve)| {
                        let barrier = &barrier;
                        s.spawn(move || {
                            barrier.wait();
                            turn(&mut ring, &mut serve, 32, chains, 0.0)
                        })
                    };
                    let threads: Vec<_> = way.start(memory, count).into_iter().map(run).collect();
                    threads.into_iter().map(|t| t.join().unwrap()).collect()
                });
                all.0.push(each.iter().map(|ns| 1e3 / ns).sum());
                all.1.push(f64::from(count) * f64::from(chains) / begun.elapsed().as_secs_f64() / 1e6);
            }
            println!("{:<28}{count} queue(s) {:>9.2} / {:>6.2}", way.name(), median(all.0), median(all.1));
        }
    }
}

/// From the driver's write to an eventfd to the used index, with the queue's lane on another thread; the driver spins.
fn latency(memory: &Ram) {
    use vmm_sys_util::eventfd::EventFd;
    struct Bell(EventFd);
    impl Doorbell for Bell {
        fn ring(&self, _: u16) {
            let _ = self.0.write(1);
        }
    }
    let bell = Arc::new(Bell(EventFd::new(0).unwrap()));
    let core = core(memory, 1, true, bell.clone());
    let mut ring = DriverRing::new(memory, 0x10000, 256, true);
    let (server, heard) = (core.clone(), bell.clone());
    std::thread::spawn(move || {
        while heard.0.read().is_ok() {
            if server.kick(0) == Next::Again {
                let _ = heard.0.write(1);
            }
        }
    });
    bring_up(&CorePort(core), &[&ring], F_EVENT_IDX);
    std::thread::sleep(Duration::from_millis(20));
    let mut all = Vec::new();
    for _ in 0..10_000 {
        fill(&mut ring, 1);
        let begun = Instant::now();
        if ring.wants_kick() {
            bell.ring(0);
        }
        while ring.used_index() == ring.seen() {
            std::hint::spin_loop();
        }
        all.push(begun.elapsed().as_nanos() as f64 / 1e3);
        take(&mut ring, 1);
    }
    all.sort_by(f64::total_cmp);
    println!("\nkick to used index, across threads: median {:.1} us, p99 {:.1} us", all[5000], all[9900]);
}

/// For callgrind: `--callgrind WAY [BATCH]`, with `--toggle-collect='*serve_only*'`: 100 batches.
#[inline(never)]
fn serve_only(serve: &mut dyn FnMut()) {
    serve();
}

fn main() {
    let memory = ram(8 << 20);
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|a| a == "--callgrind") {
        let way = match args[at + 1].as_str() {
            "bare" => Way::Bare,
            "core" => Way::Core,
            _ => Way::CoreView,
        };
        let batch = args.get(at + 2).map_or(32, |n| n.parse().expect("a number of chains"));
        let (mut ring, mut serve) = way.start(&memory, 1).remove(0);
        for _ in 0..100 {
            fill(&mut ring, batch);
            serve_only(&mut *serve);
            take(&mut ring, batch);
        }
        return;
    }
    one_queue(&memory, 4096);
    queues(&memory, 200_000);
    latency(&memory);
}
