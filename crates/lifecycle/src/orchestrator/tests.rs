use super::*;
use crate::{IllegalTransition, Status};
use drystone_state::{Persist, PersistDyn, RestoreError, SaveError, Schema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Mutex;

mod failures;
mod random;
mod save;

/// What components were asked, in order: `pause disk`.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn push(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }
    /// Everything since the last call.
    fn take(&self) -> String {
        std::mem::take(&mut *self.0.lock().unwrap()).join(", ")
    }
}

#[derive(Default)]
struct Inner {
    running: bool,
    resumed: u32,
    /// Verbs that fail.
    failing: BTreeSet<&'static str>,
}

/// A component that holds whoever calls it to the contract.
struct Recorder {
    name: &'static str,
    log: Log,
    savable: bool,
    inner: Mutex<Inner>,
}

impl Recorder {
    fn call(&self, verb: &'static str, change: impl FnOnce(&mut Inner)) -> Result<(), ComponentError> {
        self.log.push(format!("{verb} {}", self.name));
        let mut inner = self.inner.lock().unwrap();
        assert!(verb != "reset" || !inner.running, "reset of a running component");
        if inner.failing.contains(verb) {
            return Err(ComponentError::new(format!("{verb} does not work")));
        }
        change(&mut inner);
        Ok(())
    }
    fn fail(&self, verbs: impl IntoIterator<Item = &'static str>) {
        self.inner.lock().unwrap().failing = verbs.into_iter().collect();
    }
    fn running(&self) -> bool {
        self.inner.lock().unwrap().running
    }
}

impl Component for Recorder {
    fn pause(&self) -> Result<(), ComponentError> {
        self.call("pause", |i| i.running = false)
    }
    fn resume(&self) -> Result<(), ComponentError> {
        self.call("resume", |i| (i.running, i.resumed) = (true, i.resumed + 1))
    }
    fn reset(&self) -> Result<(), ComponentError> {
        self.call("reset", |_| ())
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        self.savable.then_some(self)
    }
}

/// How often it was resumed: something that differs from part to part and from moment to moment.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecorderState {
    resumed: u32,
}
impl Schema for RecorderState {
    const KIND: &'static str = "recorder";
    const VERSION: u32 = 1;
}

impl Persist for Recorder {
    type State = RecorderState;
    fn save(&self) -> Result<RecorderState, SaveError> {
        assert!(!self.running(), "save of a running component");
        let mut resumed = 0;
        self.call("save", |i| resumed = i.resumed).map_err(|e| SaveError::Component(e.to_string()))?;
        Ok(RecorderState { resumed })
    }
    fn restore(&self, RecorderState { resumed }: RecorderState) -> Result<(), RestoreError> {
        assert!(!self.running(), "restore of a running component");
        let restored = self.call("restore", |i| i.resumed = resumed);
        restored.map_err(|e| RestoreError::Invalid { kind: RecorderState::KIND, cause: e.to_string() })
    }
}

#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<Event>>>);
impl Events {
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

struct Rig {
    machine: Orchestrator,
    /// In the order of pausing: vcpus, serial, disk, board, ram, console.
    parts: Vec<Arc<Recorder>>,
    log: Log,
    events: Events,
}

impl Rig {
    fn new(policy: Policy) -> Self {
        let (log, events) = (Log::default(), Events::default());
        let sink = events.clone();
        let sink: EventSink = Arc::new(move |event| sink.0.lock().unwrap().push(event));
        let mut machine = Orchestrator::new(policy, sink);
        // Registered in another order than they are paused in.
        let order = [
            (Stage::Controllers, "board"),
            (Stage::Backends, "ram"),
            (Stage::Devices, "serial"),
            (Stage::Vcpus, "vcpus"),
            (Stage::Backends, "console"),
            (Stage::Devices, "disk"),
        ];
        let mut parts = Vec::new();
        for (stage, name) in order {
            let part = Arc::new(Recorder { name, log: log.clone(), savable: true, inner: Mutex::default() });
            machine.add(stage, name, part.clone()).unwrap();
            parts.push(part);
        }
        parts = ["vcpus", "serial", "disk", "board", "ram", "console"].map(|n| named(&parts, n)).to_vec();
        Self { machine, parts, log, events }
    }

    /// As [`new`](Self::new), in that state.
    fn at(state: State) -> Self {
        let mut rig = Self::new(Policy::default());
        let way: &[Verb] = match state {
            State::Built => &[],
            State::Running => &[Verb::Boot],
            State::Paused => &[Verb::Boot, Verb::Pause],
            State::Stopped => &[Verb::Boot, Verb::Stop],
        };
        for verb in way {
            rig.ask(*verb).unwrap();
        }
        rig.log.take();
        rig.events.take();
        rig
    }

    fn ask(&mut self, verb: Verb) -> Result<(), Error> {
        match verb {
            Verb::Boot => self.machine.boot(),
            Verb::Pause => self.machine.pause(),
            Verb::Resume => self.machine.resume(),
            Verb::Reset => self.machine.reset(Cause::Operator),
            Verb::Save => self.machine.save().map(drop),
            Verb::Restore => self.machine.restore(&saved()),
            Verb::Stop => {
                self.machine.stop(Cause::Operator);
                Ok(())
            }
        }
    }

    fn part(&self, name: &str) -> Arc<Recorder> {
        named(&self.parts, name)
    }

    fn all_running(&self, running: bool) -> bool {
        self.parts.iter().all(|p| p.running() == running)
    }
}

fn named(parts: &[Arc<Recorder>], name: &str) -> Arc<Recorder> {
    parts.iter().find(|p| p.name == name).unwrap().clone()
}

/// What a machine of a [`Rig`] saves.
fn saved() -> Vec<SavedPart> {
    Rig::at(State::Paused).machine.save().unwrap()
}

const PAUSE: &str = "pause vcpus, pause serial, pause disk, pause board, pause ram, pause console";
const RESUME: &str = "resume console, resume ram, resume board, resume disk, resume serial, resume vcpus";
const SAVE: &str = "save vcpus, save serial, save disk, save board, save ram, save console";
const RESTORE: &str =
    "restore console, restore ram, restore board, restore disk, restore serial, restore vcpus";
const RESET: &str = "reset console, reset ram, reset board, reset disk, reset serial, reset vcpus";

fn changed(from: State, to: State, cause: Cause) -> Event {
    Event::State { from, to, cause }
}

#[test]
fn every_verb_in_every_state_does_what_it_should() {
    use State::*;
    use Verb::*;
    // State, verb: next state or None for a refusal, and what components are asked.
    let all = format!("{PAUSE}, {RESET}, {RESUME}");
    let cases = [
        (Built, Boot, Some(Running), RESUME),
        (Built, Pause, None, ""),
        (Built, Resume, None, ""),
        (Built, Reset, None, ""),
        (Built, Save, None, ""),
        (Built, Restore, Some(Paused), RESTORE),
        (Built, Stop, Some(Stopped), ""),
        (Running, Boot, None, ""),
        (Running, Pause, Some(Paused), PAUSE),
        (Running, Resume, Some(Running), ""),
        (Running, Reset, Some(Running), &all),
        (Running, Save, None, ""),
        (Running, Restore, None, ""),
        (Running, Stop, Some(Stopped), PAUSE),
        (Paused, Boot, None, ""),
        (Paused, Pause, Some(Paused), ""),
        (Paused, Resume, Some(Running), RESUME),
        (Paused, Reset, Some(Paused), RESET),
        (Paused, Save, Some(Paused), SAVE),
        (Paused, Restore, None, ""),
        (Paused, Stop, Some(Stopped), ""),
        (Stopped, Boot, None, ""),
        (Stopped, Pause, None, ""),
        (Stopped, Resume, None, ""),
        (Stopped, Reset, None, ""),
        (Stopped, Save, None, ""),
        (Stopped, Restore, None, ""),
        (Stopped, Stop, Some(Stopped), ""),
    ];
    for (state, verb, next, calls) in cases {
        let mut rig = Rig::at(state);
        match (rig.ask(verb), next) {
            (Ok(()), Some(next)) => assert_eq!(rig.machine.state(), next, "{state} {verb}"),
            (Err(Error::Illegal(refused)), None) => {
                assert_eq!(refused, IllegalTransition { state, verb });
                assert_eq!(rig.machine.state(), state);
            }
            (outcome, _) => panic!("{state} {verb}: {outcome:?}"),
        }
        assert_eq!(rig.log.take(), calls, "{state} {verb}");
        let now = rig.machine.state();
        assert!(rig.all_running(now == Running), "{state} {verb}");
        let expected = match verb {
            Reset if next.is_some() => vec![Event::Reset { cause: Cause::Operator }],
            Restore if now != state => vec![changed(state, now, Cause::Restored)],
            _ if now != state => vec![changed(state, now, Cause::Operator)],
            _ => vec![],
        };
        assert_eq!(rig.events.take(), expected, "{state} {verb}");
    }
}

#[test]
fn the_guest_switches_itself_off() {
    let mut rig = Rig::at(State::Running);
    let reader = rig.machine.reader();
    assert_eq!(rig.machine.apply(Effect::PowerOff).unwrap(), Verdict::Hold);
    assert_eq!(rig.log.take(), PAUSE);
    let end = changed(State::Running, State::Stopped, Cause::GuestPowerOff);
    assert_eq!(rig.events.take(), [Event::Effect(Effect::PowerOff), end]);
    assert_eq!(reader.wait_stopped(), Cause::GuestPowerOff);
    // What arrives late means nothing more, and the first cause stays.
    assert_eq!(rig.machine.apply(Effect::Reset).unwrap(), Verdict::Hold);
    rig.machine.triple_fault().unwrap();
    rig.machine.stop(Cause::Operator);
    assert_eq!((rig.log.take().as_str(), rig.events.take()), ("", vec![]));
    assert_eq!(reader.status(), Status { state: State::Stopped, end: Some(Cause::GuestPowerOff), resets: 0 });
}

#[test]
fn the_policy_decides_about_resets_and_triple_faults() {
    let resets = |policy: Policy, act: fn(&mut Orchestrator) -> Result<(), Error>| {
        let mut rig = Rig::new(policy);
        rig.machine.boot().unwrap();
        rig.log.take();
        act(&mut rig.machine).unwrap();
        let status = rig.machine.reader().status();
        let reset = rig.log.take() == format!("{PAUSE}, {RESET}, {RESUME}");
        assert_eq!(reset, status.resets == 1);
        assert_eq!(reset, status.state == State::Running);
        (reset, status.end, rig.events.take())
    };
    let guest_reset = |m: &mut Orchestrator| m.apply(Effect::Reset).map(drop);
    let triple_fault = |m: &mut Orchestrator| m.triple_fault();

    let (reset, end, events) = resets(Policy::default(), guest_reset);
    assert_eq!((reset, end), (true, None));
    assert_eq!(events[1..], [Event::Effect(Effect::Reset), Event::Reset { cause: Cause::GuestReset }]);
    let (reset, end, _) = resets(Policy::default(), triple_fault);
    assert_eq!((reset, end), (false, Some(Cause::TripleFault)));

    let other =
        Policy { on_reset: OnReset::Stop, on_triple_fault: OnTripleFault::Reset, ..Policy::default() };
    let (reset, end, events) = resets(other, guest_reset);
    assert_eq!((reset, end), (false, Some(Cause::GuestReset)));
    assert_eq!(events[1], Event::Effect(Effect::Reset));
    let (reset, _, events) = resets(other, triple_fault);
    assert!(reset);
    assert_eq!(events[1..], [Event::Reset { cause: Cause::TripleFault }]);
}

#[test]
fn the_policy_decides_about_panics() {
    let panicked = |on_panic| {
        let mut rig = Rig::new(Policy { on_panic, ..Policy::default() });
        rig.machine.boot().unwrap();
        rig.log.take();
        rig.events.take();
        let verdict = rig.machine.apply(Effect::Panic).unwrap();
        (rig, verdict)
    };
    let effect = Event::Effect(Effect::Panic);

    let (rig, verdict) = panicked(OnPanic::Stop);
    let end = changed(State::Running, State::Stopped, Cause::GuestPanic);
    assert_eq!((verdict, rig.events.take()), (Verdict::Hold, vec![effect.clone(), end]));
    let (rig, verdict) = panicked(OnPanic::Reset);
    let reset = Event::Reset { cause: Cause::GuestPanic };
    assert_eq!((verdict, rig.events.take()), (Verdict::Hold, vec![effect.clone(), reset]));
    assert_eq!(rig.log.take(), format!("{PAUSE}, {RESET}, {RESUME}"));

    let (mut rig, verdict) = panicked(OnPanic::Pause);
    let pause = changed(State::Running, State::Paused, Cause::GuestPanic);
    assert_eq!(verdict, Verdict::Release, "resumed, it does what it does after a panic");
    assert_eq!((rig.log.take().as_str(), rig.events.take()), (PAUSE, vec![effect, pause]));
    rig.machine.reset(Cause::Operator).unwrap();
    assert_eq!(rig.machine.state(), State::Paused);
    rig.machine.resume().unwrap();
    assert!(rig.all_running(true));
}

#[test]
fn a_guest_that_takes_a_dump_of_itself_goes_on() {
    let mut rig = Rig::at(State::Running);
    assert_eq!(rig.machine.apply(Effect::CrashLoaded).unwrap(), Verdict::Release);
    assert_eq!((rig.log.take().as_str(), rig.events.take()), ("", vec![Event::Effect(Effect::CrashLoaded)]));
}

#[test]
fn a_guest_that_was_asked_to_shut_down_ends_by_power_off_and_by_reset() {
    for effect in [Effect::PowerOff, Effect::Reset] {
        let mut rig = Rig::at(State::Running);
        rig.machine.expect_shutdown(true);
        assert_eq!(rig.machine.apply(effect).unwrap(), Verdict::Hold);
        let end = changed(State::Running, State::Stopped, Cause::Shutdown);
        assert_eq!(rig.events.take(), [Event::Effect(effect), end]);
    }
    let mut rig = Rig::at(State::Running);
    rig.machine.expect_shutdown(true);
    rig.machine.expect_shutdown(false);
    assert_eq!(rig.machine.apply(Effect::Reset).unwrap(), Verdict::Hold);
    assert_eq!(rig.machine.state(), State::Running, "the wish was taken back");
}

#[test]
fn no_effect_is_nothing() {
    let mut rig = Rig::at(State::Running);
    assert_eq!(rig.machine.apply(Effect::None).unwrap(), Verdict::Hold);
    assert_eq!((rig.log.take().as_str(), rig.events.take()), ("", vec![]));
}

#[test]
fn a_guest_that_resets_a_paused_machine_leaves_it_paused() {
    let mut rig = Rig::at(State::Paused);
    assert_eq!(rig.machine.apply(Effect::Reset).unwrap(), Verdict::Hold);
    assert_eq!((rig.machine.state(), rig.log.take().as_str()), (State::Paused, RESET));
    let refused = Rig::at(State::Built).machine.apply(Effect::Reset).unwrap_err().to_string();
    assert_eq!(refused, "cannot reset a machine that is built");
}

#[test]
fn components_are_found_by_name_and_only_one_has_it() {
    let mut rig = Rig::at(State::Running);
    assert_eq!(
        rig.machine.names().collect::<Vec<_>>(),
        ["vcpus", "serial", "disk", "board", "ram", "console"]
    );
    let refused = rig.machine.add(Stage::Vcpus, "disk", rig.part("disk")).unwrap_err();
    assert_eq!(refused.to_string(), "the machine has a part named disk already");
}

#[test]
fn a_component_that_is_taken_out_is_asked_for_nothing_more() {
    let mut rig = Rig::at(State::Running);
    rig.log.take();
    assert!(rig.machine.remove("disk").is_some() && rig.machine.remove("disk").is_none());
    assert_eq!(rig.log.take(), "");
    rig.machine.pause().unwrap();
    rig.machine.reset(Cause::Operator).unwrap();
    assert!(!rig.log.take().contains("disk"));
    assert!(!rig.machine.names().any(|name| name == "disk"));
    // The name is free.
    rig.machine.add(Stage::Devices, "disk", rig.part("disk")).unwrap();
}

#[test]
fn a_component_that_comes_later_joins_a_running_machine() {
    let mut rig = Rig::at(State::Running);
    let late = |name| {
        let log = rig.log.clone();
        Arc::new(Recorder { name, log, savable: true, inner: Mutex::default() })
    };
    let (net, broken) = (late("net"), late("broken"));
    rig.machine.add(Stage::Devices, "net", net.clone()).unwrap();
    assert!(net.running());
    broken.fail(["resume"]);
    let refused = rig.machine.add(Stage::Devices, "broken", broken).unwrap_err();
    assert_eq!(refused.to_string(), "cannot resume: broken: resume does not work");
    rig.log.take();
    rig.machine.pause().unwrap();
    assert_eq!(rig.log.take(), PAUSE.replace("disk", "disk, pause net"));

    let mut rig = Rig::at(State::Paused);
    let log = rig.log.clone();
    let net = Arc::new(Recorder { name: "net", log, savable: true, inner: Mutex::default() });
    rig.machine.add(Stage::Devices, "net", net.clone()).unwrap();
    assert!(!net.running(), "a paused machine does not start it");
}

#[test]
fn who_cannot_be_saved_is_named() {
    let mut rig = Rig::at(State::Running);
    rig.machine.savable().unwrap();
    for name in ["vsock", "gpu"] {
        let log = rig.log.clone();
        let part = Arc::new(Recorder { name, log, savable: false, inner: Mutex::default() });
        rig.machine.add(Stage::Devices, name, part).unwrap();
    }
    let refused = rig.machine.savable().unwrap_err();
    assert_eq!(refused.to_string(), "cannot save: vsock, gpu cannot be saved");
}

#[test]
fn dropping_a_machine_stops_it_and_whoever_waits_hears_of_it() {
    let rig = Rig::at(State::Running);
    let reader = rig.machine.reader();
    let waiter = std::thread::spawn(move || reader.wait_stopped());
    drop(rig.machine);
    assert_eq!(waiter.join().unwrap(), Cause::Operator);
    assert_eq!(rig.log.take(), PAUSE);
}
