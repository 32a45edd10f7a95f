//! Random lives, held against what must be true after every step.

use super::*;

/// xorshift64*: the same life in every run with the same seed.
struct Random(u64);
impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n as u64) as usize
    }
}

const VERBS: [Verb; 4] = [Verb::Boot, Verb::Pause, Verb::Resume, Verb::Reset];

fn step(rig: &mut Rig, random: &mut Random) -> Result<(), Error> {
    match random.below(40) {
        0 => rig.ask(Verb::Stop),
        1 => rig.machine.apply(Effect::PowerOff).map(drop),
        2..6 => rig.machine.apply(Effect::Reset).map(drop),
        8..10 => rig.machine.apply(Effect::Panic).map(drop),
        6..8 => rig.machine.triple_fault(),
        _ => rig.ask(VERBS[random.below(4)]),
    }
}

fn break_or_mend(rig: &Rig, random: &mut Random) {
    let part = &rig.parts[random.below(rig.parts.len())];
    let verbs = ["pause", "resume", "reset"].into_iter();
    part.fail(verbs.filter(|_| random.below(4) == 0));
}

fn live(seed: u64) {
    let random = &mut Random(seed);
    let on_triple_fault = [OnTripleFault::Stop, OnTripleFault::Reset][random.below(2)];
    let on_panic = [OnPanic::Stop, OnPanic::Reset, OnPanic::Pause, OnPanic::Pause][random.below(4)];
    let mut rig = Rig::new(Policy { on_triple_fault, on_panic, ..Policy::default() });
    let mut told = State::Built;
    for _ in 0..60 {
        if random.below(3) == 0 {
            break_or_mend(&rig, random);
        }
        let before = rig.machine.reader().status();
        let outcome = step(&mut rig, random);
        let after = rig.machine.reader().status();
        let calls = rig.log.take();
        if matches!(outcome, Err(Error::Illegal(_))) || before.state == State::Stopped {
            assert!(
                before == after && calls.is_empty(),
                "a refusal changes nothing, nor does anything after the end"
            );
        }
        assert_eq!(after.end.is_some(), after.state == State::Stopped);
        if matches!(outcome, Err(Error::Stuck { .. })) {
            assert!(rig.machine.is_stuck());
        }
        if !rig.machine.is_stuck() && after.state != State::Stopped {
            assert!(
                rig.all_running(after.state == State::Running),
                "seed {seed}: {} after {calls}",
                after.state
            );
        }
        for event in rig.events.take() {
            if let Event::State { from, to, .. } = event {
                assert_eq!(from, told, "no change goes untold");
                told = to;
            }
        }
        assert_eq!(told, after.state);
    }
    // In the end everything is mended, and the machine comes out of wherever it was stuck.
    rig.parts.iter().for_each(|p| p.fail([]));
    if rig.machine.pause().is_ok() {
        assert!(rig.all_running(false));
        rig.machine.resume().unwrap();
        assert!(rig.all_running(true) && !rig.machine.is_stuck());
    }
}

#[test]
fn random_lives_keep_every_promise() {
    for seed in 1..=2000 {
        live(seed * 0x9e37_79b9);
    }
}
