//! Requests a second of a disk, and CPU time a request, with each engine beside the sync one: a driver in this process, the device on
//! a thread of its own, a real file. fio on the same file, with the same engine, tells what the host can do.
//!
//! `--file PATH` (made, 256 MiB, and removed), `--direct`, `--threads N` (that serve the queues, 1), `--turns N`, `--only TEXT` (of a case's name), and for callgrind
//! `--callgrind ENGINE REQUESTS`.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used
)]

use clap::Parser;
use drystone_benches::figures::Series;
use drystone_block::{Block, BlockConfig, EngineKind, Host};
use drystone_bus::SystemClock;
use drystone_runner::{Attachment, Doorbells, Runner};
use drystone_testkit::block::{DiskMachine, FEATURES, IN, OUT};
use drystone_testkit::virtio::{DriverRing, Edges, MmioPort, Pump, Ram, Transport, WRITE, bring_up, ram};
use drystone_virtio::{Doorbell, Mmio, MmioConfig};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress};

const FILE: u64 = 256 << 20;
const RING: u16 = 256;
const MAX_DEPTH: u64 = 32;
const MAX_BLOCK: u64 = 128 << 10;
const MAX_QUEUES: u64 = 4;
/// Where a request's head and status are; its data is after all of those. All lie close together, as fio's do: at large powers of two apart
/// they would have the same few places in the processor's caches.
const HEADS: u64 = 1 << 20;
const HEAD: u64 = 128;
const DATA: u64 = HEADS + MAX_QUEUES * MAX_DEPTH * HEAD;
const MEMORY: u64 = DATA + MAX_QUEUES * MAX_DEPTH * MAX_BLOCK;
const ENGINES: [EngineKind; 3] = [EngineKind::Sync, EngineKind::Threads, EngineKind::IoUring];

#[derive(Parser)]
struct Args {
    /// The file to make
    #[arg(long, default_value = "disks-bench.img")]
    file: PathBuf,
    /// Leave out the host's cache
    #[arg(long)]
    direct: bool,
    /// How often each engine has its turn
    #[arg(long, default_value_t = 3)]
    turns: usize,
    /// Milliseconds of a turn
    #[arg(long, default_value_t = 200)]
    millis: u64,
    /// Threads that serve the queues
    #[arg(long, default_value = "1")]
    threads: NonZeroUsize,
    /// Cases whose name has this in it
    #[arg(long, default_value = "")]
    only: String,
    /// For callgrind: this engine serves so many requests of 4 KiB, in batches of 32, and nothing else is done
    #[arg(long, num_args = 2, value_names = ["ENGINE", "REQUESTS"])]
    callgrind: Option<Vec<String>>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy)]
struct Case {
    write: bool,
    random: bool,
    block: u64,
    depth: u64,
    queues: u64,
}

impl Case {
    fn all() -> impl Iterator<Item = Self> {
        let bits = (0..32u32).map(|n| move |bit: u32| n >> bit & 1 == 1);
        bits.map(|is| Self {
            write: is(4),
            random: !is(3),
            block: if is(2) { MAX_BLOCK } else { 4096 },
            depth: if is(1) { MAX_DEPTH } else { 1 },
            queues: if is(0) { MAX_QUEUES } else { 1 },
        })
    }

    fn mode(self) -> &'static str {
        match (self.random, self.write) {
            (true, true) => "randwrite",
            (true, false) => "randread",
            (false, true) => "write",
            (false, false) => "read",
        }
    }

    fn name(self) -> String {
        let Self { block, depth, queues, .. } = self;
        format!("{} {}K depth {depth} queues {queues}", self.mode(), block >> 10)
    }
}

/// What a turn came to.
#[derive(Default, Clone)]
struct Figures {
    /// Thousands of requests a second.
    rate: Series,
    /// Microseconds of CPU time a request, the driver's own left out.
    cpu: Series,
}

/// The CPU time of this process, its kernel threads for I/O included, or of this thread.
fn cpu(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec to write to.
    unsafe { libc::clock_gettime(clock, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The driver of one queue, which keeps `depth` requests in flight.
struct Queue {
    index: u16,
    ring: DriverRing,
    /// By head: its slot.
    slots: Vec<u64>,
    next: u64,
}

struct Rig {
    memory: Ram,
    doorbells: Arc<Doorbells>,
    _attached: Attachment,
    _port: MmioPort<Ram>,
    queues: Vec<Queue>,
    case: Case,
    noise: u64,
}

fn device(args: &Args, engine: EngineKind, queues: u64) -> Block<Ram> {
    let (direct, queues) = (args.direct, queues as u16);
    let config = BlockConfig { engine, direct, queues, ..BlockConfig::new("bench", &args.file) };
    let host =
        Host { clock: Arc::new(SystemClock::new()), on_failure: Arc::new(|f| panic!("{f}")), group: None };
    Block::open(&config, host).unwrap_or_else(|e| panic!("{e}")).0
}

fn port(device: Block<Ram>, memory: &Ram, doorbell: Arc<dyn Doorbell>) -> MmioPort<Ram> {
    let place = MmioConfig { base: 0xd000_0000, gsi: 5, index: 0, shared_memory: vec![] };
    let host = drystone_virtio::Host::new(doorbell);
    MmioPort(Arc::new(
        Mmio::new(place, Box::new(device), memory.clone(), Arc::new(Edges::default()), host).unwrap(),
    ))
}

fn rings(memory: &Ram, queues: u64) -> Vec<DriverRing> {
    (0..queues).map(|q| DriverRing::new(memory, 0x1_0000 * (1 + q), RING, true)).collect()
}

impl Rig {
    fn new(args: &Args, runner: &Runner, memory: &Ram, engine: EngineKind, case: Case) -> Self {
        let doorbells = Arc::new(Doorbells::new(case.queues as usize).unwrap());
        let port = port(device(args, engine, case.queues), memory, doorbells.clone());
        let attached = runner.attach(port.0.core(), &doorbells).unwrap();
        let rings = rings(memory, case.queues);
        bring_up(&port, &rings.iter().collect::<Vec<_>>(), FEATURES);
        let queue = |(index, ring)| Queue { index, ring, slots: vec![0; RING.into()], next: 0 };
        let queues = (0..).zip(rings).map(queue).collect();
        let memory = memory.clone();
        Self { memory, doorbells, _attached: attached, _port: port, queues, case, noise: 1 }
    }

    /// Where the next request of a queue goes, in sectors.
    fn place(&mut self, queue: usize) -> u64 {
        let blocks = FILE / self.case.block;
        let block = if self.case.random {
            self.noise = self.noise.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.noise >> 33) % blocks
        } else {
            let share = blocks / self.case.queues;
            let next = &mut self.queues[queue].next;
            *next = (*next + 1) % share;
            share * queue as u64 + *next
        };
        block * self.case.block / 512
    }

    fn ask(&mut self, queue: usize, slot: u64) {
        let number = queue as u64 * MAX_DEPTH + slot;
        let (head, data) = (HEADS + number * HEAD, DATA + number * self.case.block);
        let (kind, flags) = if self.case.write { (OUT, 0) } else { (IN, WRITE) };
        let sector = self.place(queue);
        self.memory.write_slice(&DiskMachine::head(kind, sector, &[]), GuestAddress(head)).unwrap();
        let bufs = [(head, 16, 0), (data, self.case.block as u32, flags), (head + 64, 1, WRITE)];
        let queue = &mut self.queues[queue];
        let head = queue.ring.add(&bufs, true).expect("room");
        queue.slots[usize::from(head)] = slot;
    }

    fn kick(&mut self, queue: usize) {
        let queue = &mut self.queues[queue];
        if queue.ring.wants_kick() {
            self.doorbells.ring(queue.index);
        }
    }

    /// Keeps its requests in flight for a while. Gives how many were answered.
    fn run(&mut self, time: Duration) -> u64 {
        for queue in 0..self.queues.len() {
            (0..self.case.depth).for_each(|slot| self.ask(queue, slot));
            self.kick(queue);
        }
        let (begun, mut answered, mut waiting) = (Instant::now(), 0, self.case.depth * self.case.queues);
        while waiting > 0 {
            let go_on = begun.elapsed() < time;
            for queue in 0..self.queues.len() {
                let mut any = false;
                while let Some((head, _)) = self.queues[queue].ring.take() {
                    answered += 1;
                    if go_on {
                        let slot = self.queues[queue].slots[usize::from(head)];
                        self.ask(queue, slot);
                        any = true;
                    } else {
                        waiting -= 1;
                    }
                }
                if any {
                    self.kick(queue);
                }
            }
            // Two processors may be all that there are.
            std::thread::yield_now();
        }
        answered
    }
}

fn turn(args: &Args, runner: &Runner, memory: &Ram, engine: EngineKind, case: Case, into: &mut Figures) {
    let mut rig = Rig::new(args, runner, memory, engine, case);
    rig.run(Duration::from_millis(20));
    let (all, own, begun) =
        (cpu(libc::CLOCK_PROCESS_CPUTIME_ID), cpu(libc::CLOCK_THREAD_CPUTIME_ID), Instant::now());
    let answered = rig.run(Duration::from_millis(args.millis)) as f64;
    let (all, own) = (cpu(libc::CLOCK_PROCESS_CPUTIME_ID) - all, cpu(libc::CLOCK_THREAD_CPUTIME_ID) - own);
    into.rate.0.push(answered / begun.elapsed().as_secs_f64() / 1e3);
    into.cpu.0.push((all - own.min(all)).as_secs_f64() * 1e6 / answered);
}

/// The same by fio, with io_uring and a process for each queue.
fn fio(args: &Args, case: Case, into: &mut Figures) -> Result<(), String> {
    let output = Command::new("fio")
        .args(["--name=x", "--ioengine=io_uring", "--group_reporting", "--time_based", "--minimal"])
        .args(["--fixedbufs=0", "--registerfiles=1", "--norandommap", "--invalidate=0"])
        .arg(format!("--runtime={}ms", args.millis.max(500)))
        .arg(format!("--filename={}", args.file.display()))
        .arg(format!("--direct={}", u8::from(args.direct)))
        .arg(format!("--rw={}", case.mode()))
        .arg(format!("--bs={}", case.block))
        .arg(format!("--iodepth={}", case.depth))
        .arg(format!("--numjobs={}", case.queues))
        .output()
        .map_err(|e| format!("fio: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let fields: Vec<&str> = text.trim().split(';').collect();
    // The terse format, version 3: rate and time of reads from field 5 on, of writes from 46 on, CPU from 87 on.
    let at = |n: usize| fields.get(n).and_then(|f| f.trim_end_matches('%').parse::<f64>().ok());
    let first = if case.write { 46 } else { 5 };
    let (Some(rate), Some(millis), Some(user), Some(system)) = (at(first + 2), at(first + 3), at(87), at(88))
    else {
        return Err(format!("fio: {} {}", text.trim(), String::from_utf8_lossy(&output.stderr).trim()));
    };
    // Percent of one processor, of all jobs together.
    let jobs = case.queues as f64;
    into.rate.0.push(rate / 1e3);
    into.cpu.0.push((user + system) / 100.0 * jobs * (millis / 1e3) * 1e6 / (rate * millis / 1e3).max(1.0));
    Ok(())
}

fn make(file: &Path) {
    let data: Vec<u8> = (0..1 << 20).map(|i: u32| (i / 512) as u8).collect();
    let content = data.iter().copied().cycle().take(FILE as usize).collect::<Vec<_>>();
    std::fs::write(file, content).unwrap();
    std::fs::File::open(file).unwrap().sync_all().unwrap();
}

/// For callgrind, with `--toggle-collect='*serve_only*'`.
#[inline(never)]
fn serve_only(port: &MmioPort<Ram>) {
    port.notify(0);
    let _ = port.0.core().kick(0);
}

fn count(args: &Args, memory: &Ram, engine: &str, requests: u64) {
    let engine = *ENGINES.iter().find(|e| e.name() == engine).expect("an engine");
    let port = port(device(args, engine, 1), memory, Arc::new(Pump::default()));
    let mut ring = rings(memory, 1).remove(0);
    bring_up(&port, &[&ring], FEATURES);
    for _ in 0..requests / MAX_DEPTH {
        for slot in 0..MAX_DEPTH {
            let (head, data) = (HEADS + slot * HEAD, DATA + slot * 4096);
            memory.write_slice(&DiskMachine::head(IN, slot * 8, &[]), GuestAddress(head)).unwrap();
            ring.add(&[(head, 16, 0), (data, 4096, WRITE), (head + 64, 1, WRITE)], true).expect("room");
        }
        let mut answered = 0;
        while answered < MAX_DEPTH {
            serve_only(&port);
            while ring.take().is_some() {
                answered += 1;
            }
        }
    }
}

fn main() {
    let args = Args::parse();
    let memory = ram(MEMORY as usize);
    make(&args.file);
    if let Some(what) = &args.callgrind {
        count(&args, &memory, &what[0], what[1].parse().expect("a number of requests"));
        return std::fs::remove_file(&args.file).unwrap();
    }
    println!(
        "Thousands of requests a second and CPU microseconds a request: medians of {} turns, ratios to sync",
        args.turns
    );
    println!(
        "turn by turn. {} of 256 MiB{}.",
        args.file.display(),
        if args.direct { ", direct" } else { "" }
    );
    println!("\n| case | engine | requests | to sync | CPU | to sync |\n|---|---|---|---|---|---|");
    let runner = Runner::new("bench", args.threads).unwrap();
    let mut without_fio = None;
    for case in Case::all().filter(|case| case.name().contains(&args.only)) {
        let mut all = vec![Figures::default(); ENGINES.len() + 1];
        for _ in 0..args.turns {
            for (engine, figures) in ENGINES.iter().zip(&mut all) {
                turn(&args, &runner, &memory, *engine, case, figures);
            }
            if without_fio.is_none() {
                without_fio = fio(&args, case, &mut all[ENGINES.len()]).err();
            }
        }
        let names = ENGINES.iter().map(|e| e.name()).chain(["fio"]);
        for (name, figures) in names.zip(&all).filter(|(_, figures)| !figures.cpu.0.is_empty()) {
            println!(
                "| {} | {name} | {:.1} | {:.2} | {:.2} | {:.2} |",
                case.name(),
                figures.rate.median(),
                figures.rate.ratio_to(&all[0].rate),
                figures.cpu.median(),
                figures.cpu.ratio_to(&all[0].cpu),
            );
        }
    }
    if let Some(why) = without_fio {
        println!("\nNOT RUN: beside fio: {why}");
    }
    std::fs::remove_file(&args.file).unwrap();
}
