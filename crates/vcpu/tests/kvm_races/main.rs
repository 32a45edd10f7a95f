//! Races of everybody who starts, stops, looks at, kicks and ends the vCPUs of a set, on a true KVM, while their guests spin,
//! do I/O, halt in the hypervisor, or make events. Every call comes back, no guest runs while it is paused, and no kick
//! is lost or counts twice.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod machine;

use drystone_hypervisor::Kicker;
use drystone_kvm::Kvm;
use drystone_state::Component;
use drystone_testkit::Backend;
use machine::{Kind, Machine, VCPUS};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Each ends one set of vCPUs. So many under `DRYSTONE_FULL=1`, and fewer otherwise.
const RACES: u64 = 1000;
const FEWER: u64 = 300;
/// So many kicks or events are waited for, one by one.
const QUIET: u64 = 10;
/// Whoever takes longer has lost something. It asserts no speed: a race takes milliseconds.
const HANG: Duration = Duration::from_secs(300);

/// How often whoever waits looks again.
const GLANCE: Duration = Duration::from_micros(50);

/// This host's KVM. Where there is none it says so and returns nothing, unless `DRYSTONE_REQUIRE_KVM=1`.
fn kvm() -> Option<Backend> {
    match Kvm::open() {
        Ok(kvm) => Some(Backend::Real(Arc::new(kvm))),
        Err(e) if std::env::var_os("DRYSTONE_REQUIRE_KVM").is_some_and(|v| v == "1") => panic!("{e}"),
        Err(e) => {
            eprintln!("SKIPPED, no KVM: {e}");
            None
        }
    }
}

/// xorshift64*: the order is random, and the same in every run with the same seed.
struct Random(u64);
impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    }
    /// Gives the others a head start of random length.
    fn dawdle(&mut self) {
        (0..self.below(8)).for_each(|_| thread::yield_now());
    }
}

/// What all races did together.
#[derive(Default)]
struct Sums {
    pauses: u64,
    kicks: u64,
    interrupted: u64,
    events: u64,
}

/// Who takes part in a race, each on a thread of its own, from the same moment on.
struct Race {
    start: Arc<Barrier>,
    threads: Vec<(&'static str, JoinHandle<()>)>,
}

impl Race {
    fn of(parties: usize) -> Self {
        Self { start: Arc::new(Barrier::new(parties)), threads: Vec::new() }
    }

    fn with(mut self, name: &'static str, party: impl FnOnce() + Send + 'static) -> Self {
        let start = self.start.clone();
        let run = move || {
            start.wait();
            party();
        };
        self.threads.push((name, thread::spawn(run)));
        self
    }

    /// Until all have come back; meanwhile events are decided about.
    fn run(self, machine: &Machine, what: &str) {
        let begun = Instant::now();
        while self.threads.iter().any(|(_, thread)| !thread.is_finished()) {
            machine.release_events();
            thread::sleep(GLANCE);
            if begun.elapsed() > HANG {
                let stuck = self.threads.iter().filter(|(_, t)| !t.is_finished()).map(|(name, _)| *name);
                panic!("{what}: {:?} does not come back", stuck.collect::<Vec<_>>());
            }
        }
        self.threads.into_iter().for_each(|(_, thread)| thread.join().unwrap());
    }
}

/// Resumes, pauses and looks, in random order. Answers with the number of pauses.
fn control(machine: &Machine, random: &mut Random, calls: u64) -> u64 {
    let mut pauses = 0;
    for _ in 0..calls {
        random.dawdle();
        match random.below(4) {
            0 | 1 => match machine.set.resume() {
                Ok(()) => {}
                // Only once somebody has ended them.
                Err(e) => assert!(e.to_string().contains("have been stopped"), "{e}"),
            },
            2 => {
                machine.set.pause().unwrap();
                pauses += 1;
            }
            _ => {}
        }
        machine.look();
    }
    pauses
}

fn kick(kickers: &[Arc<dyn Kicker>], random: &mut Random, times: u64) {
    for _ in 0..times {
        random.dawdle();
        kickers.iter().for_each(|kicker| kicker.kick());
    }
}

/// After a race, with nobody else about: each kick gets its vCPU out of the guest once, and whoever asks for something gets
/// on when that is decided. Answers with the number of kicks for each vCPU.
fn quiet(machine: &Machine, race: &str, kinds: [Kind; VCPUS]) -> [u64; VCPUS] {
    machine.set.resume().unwrap();
    let mut kicks = [0; VCPUS];
    for (id, kind) in (0..).zip(kinds) {
        let what = format!("{race}: vCPU {id}");
        if kind == Kind::Events {
            let asked = || machine.set.counts(id).unwrap().pio_writes;
            let old = asked();
            machine.wait(&format!("{what}: a decision"), || asked() >= old + QUIET);
            continue;
        }
        let interrupted = || machine.set.counts(id).unwrap().interrupted;
        let old = interrupted();
        for n in 1..=QUIET {
            machine.kickers[id as usize].kick();
            machine.wait(&format!("{what}: a kick"), || interrupted() >= old + n);
        }
        kicks[id as usize] = QUIET;
        // One kick of the race may still have been latched.
        let counted = interrupted() - old;
        assert!(counted <= QUIET + 1, "{what}: {counted} interruptions by {QUIET} kicks");
    }
    kicks
}

/// One set of vCPUs: two controllers and a stranger who kicks; then a quiet time; then an end in the middle of it all.
fn live(backend: &Backend, seed: u64, kinds: [Kind; VCPUS], sums: &mut Sums) {
    let machine = Arc::new(Machine::new(backend, kinds));
    let name = format!("race {seed} of {kinds:?}");
    let pauses = Arc::new(AtomicU64::new(0));
    let controller = |party: u64, calls| {
        let (machine, pauses) = (machine.clone(), pauses.clone());
        let mut random = Random::new(seed * 16 + party);
        move || {
            pauses.fetch_add(control(&machine, &mut random, calls), SeqCst);
        }
    };
    let stranger = |party, times| {
        let (kickers, mut random) = (machine.kickers.clone(), Random::new(seed * 16 + party));
        move || kick(&kickers, &mut random, times)
    };
    let mut random = Random::new(seed);
    let (before, during) = (random.below(8), random.below(8));

    let race = Race::of(3).with("controller 1", controller(1, 4)).with("controller 2", controller(2, 4));
    race.with("stranger", stranger(3, before)).run(&machine, &name);

    let own = quiet(&machine, &name, kinds);

    let race = Race::of(4).with("controller 1", controller(4, 3)).with("controller 2", controller(5, 3));
    let race = race.with("stranger", stranger(6, during));
    let (ended, mut last) = (machine.clone(), Random::new(seed * 16 + 7));
    let end = move || {
        last.dawdle();
        ended.set.stop();
    };
    race.with("end", end).run(&machine, &name);

    assert!(machine.look(), "what has ended can be looked at");
    assert!(machine.set.resume().is_err());
    machine.set.pause().unwrap();

    let pauses = pauses.load(SeqCst) + 1;
    for (kind, id) in kinds.iter().zip(0..) {
        let counts = machine.set.counts(id).unwrap();
        // An event of the guest comes with a kick of the set's own.
        let events = if *kind == Kind::Events { counts.pio_writes } else { 0 };
        let kicks = before + during + own[id as usize] + pauses + 1 + events;
        assert!(counts.interrupted <= kicks, "{name}: vCPU {id}: {} of {kicks} kicks", counts.interrupted);
        assert_eq!((counts.faults, counts.shutdown, counts.halted), (0, 0, 0), "{name}: vCPU {id}");
        sums.kicks += kicks;
        sums.interrupted += counts.interrupted;
        sums.events += events;
    }
    sums.pauses += pauses;
}

#[test]
fn everybody_comes_back_from_a_thousand_races() {
    let Some(backend) = kvm() else { return };
    let races = if std::env::var_os("DRYSTONE_FULL").is_some() { RACES } else { FEWER };
    let mut sums = Sums::default();
    for race in 0..races {
        let kind = |n: u64| Kind::ALL[n as usize % Kind::ALL.len()];
        live(&backend, race, [kind(race), kind(race / 4)], &mut sums);
    }
    let Sums { pauses, kicks, interrupted, events } = sums;
    eprintln!(
        "{races} races: {pauses} pauses, {kicks} kicks, {interrupted} of them separate, {events} events"
    );
    eprintln!("{RACES} races under DRYSTONE_FULL=1");
    assert!(pauses > races && events > races / 4 && interrupted > races);
    machine::no_vcpu_thread_is_left();
}
