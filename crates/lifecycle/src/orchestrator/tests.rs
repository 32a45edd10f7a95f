use super::*;
use drystone_state::PersistDyn;
use std::sync::Mutex;

type Log = Arc<Mutex<Vec<String>>>;

/// Writes its calls down, and fails those it is told to.
struct Probe {
    name: &'static str,
    log: Log,
    fails: Mutex<Option<&'static str>>,
}

impl Probe {
    fn call(&self, what: &'static str) -> Result<(), ComponentError> {
        self.log.lock().unwrap().push(format!("{what} {}", self.name));
        if *self.fails.lock().unwrap() == Some(what) {
            return Err(ComponentError::new("it is stuck"));
        }
        Ok(())
    }
}

impl Component for Probe {
    fn pause(&self) -> Result<(), ComponentError> {
        self.call("pause")
    }
    fn resume(&self) -> Result<(), ComponentError> {
        self.call("resume")
    }
    fn reset(&self) -> Result<(), ComponentError> {
        self.call("reset")
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        None
    }
}

struct Bench {
    machine: Orchestrator,
    device: Arc<Probe>,
    log: Log,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Bench {
    fn new(policy: Policy) -> Self {
        let log = Log::default();
        let probe = |name| Arc::new(Probe { name, log: log.clone(), fails: Mutex::new(None) });
        let (vcpus, device, ram) = (probe("vcpus"), probe("serial"), probe("ram"));
        let part = |stage, p: &Arc<Probe>| Part { stage, name: p.name.into(), component: p.clone() };
        // Registered in the wrong order on purpose.
        let parts =
            vec![part(Stage::Backends, &ram), part(Stage::Vcpus, &vcpus), part(Stage::Devices, &device)];
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = events.clone();
        let machine =
            Orchestrator::new(parts, policy, Arc::new(move |e| sink.lock().unwrap().push(e.clone())));
        Self { machine, device, log, events }
    }
    fn calls(&self) -> String {
        std::mem::take(&mut *self.log.lock().unwrap()).join(", ")
    }
    fn events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock().unwrap())
    }
}

#[test]
fn parts_pause_from_vcpus_to_back_ends_and_resume_in_reverse() {
    let mut b = Bench::new(Policy::default());
    b.machine.act(Verb::Boot).unwrap();
    assert_eq!(b.calls(), "resume ram, resume serial, resume vcpus");
    b.machine.act(Verb::Pause).unwrap();
    assert_eq!(b.calls(), "pause vcpus, pause serial, pause ram");
    b.machine.act(Verb::Pause).unwrap();
    assert_eq!(b.calls(), "", "already paused");
    b.machine.act(Verb::Reset).unwrap();
    assert_eq!(
        (b.calls().as_str(), b.machine.state()),
        ("reset ram, reset serial, reset vcpus", State::Paused)
    );
    b.machine.act(Verb::Resume).unwrap();
    b.calls();
    b.machine.act(Verb::Reset).unwrap();
    assert_eq!(
        b.calls(),
        "pause vcpus, pause serial, pause ram, reset ram, reset serial, reset vcpus, resume ram, resume serial, resume vcpus"
    );
    b.machine.act(Verb::Stop).unwrap();
    assert_eq!(b.machine.state_reader().get(), State::Stopped);
    assert!(matches!(b.machine.act(Verb::Boot), Err(LifecycleError::Illegal(_))));
}

#[test]
fn a_part_that_does_not_pause_is_named_and_the_machine_runs_on() {
    let mut b = Bench::new(Policy::default());
    b.machine.act(Verb::Boot).unwrap();
    b.calls();
    *b.device.fails.lock().unwrap() = Some("pause");
    let error = b.machine.act(Verb::Pause).unwrap_err().to_string();
    assert_eq!(error, "cannot pause serial: it is stuck");
    assert_eq!(
        (b.calls().as_str(), b.machine.state()),
        ("pause vcpus, pause serial, resume vcpus", State::Running)
    );
    assert!(b.machine.act(Verb::Reset).is_err());
    assert_eq!(b.machine.state(), State::Running, "a reset that cannot begin");
    b.machine.act(Verb::Stop).unwrap();
    assert_eq!(b.machine.state(), State::Stopped, "it can still be stopped");
}

#[test]
fn a_failed_resume_or_reset_leaves_the_machine_paused() {
    for (fails, verb) in [("resume", Verb::Resume), ("reset", Verb::Reset)] {
        let mut b = Bench::new(Policy::default());
        b.machine.act(Verb::Boot).unwrap();
        b.machine.act(Verb::Pause).unwrap();
        if verb == Verb::Reset {
            b.machine.act(Verb::Resume).unwrap();
        }
        b.events();
        *b.device.fails.lock().unwrap() = Some(fails);
        assert!(b.machine.act(verb).unwrap_err().to_string().contains("serial"));
        assert_eq!(b.machine.state(), State::Paused);
        assert!(b.events().iter().any(|e| matches!(e, Event::Failed { .. })));
        assert!(b.calls().ends_with(if verb == Verb::Reset { "reset serial" } else { "pause ram" }));
    }
}

#[test]
fn effects_follow_the_policy_and_say_why() {
    let mut b = Bench::new(Policy::default());
    b.machine.act(Verb::Boot).unwrap();
    b.events();
    assert_eq!(b.machine.apply(Effect::None).unwrap(), Outcome::Continues);
    assert_eq!(b.machine.apply(Effect::Reset).unwrap(), Outcome::Continues);
    assert_eq!(b.events(), [Event::Reset { cause: Cause::GuestReset }]);
    assert_eq!(b.machine.apply(Effect::PowerOff).unwrap(), Outcome::Ended);
    let stopped = |cause| Event::State { from: State::Running, to: State::Stopped, cause };
    assert_eq!(b.events(), [stopped(Cause::GuestPowerOff)]);

    let mut b = Bench::new(Policy::new(ResetPolicy::Stop, ResetPolicy::Reset));
    b.machine.act(Verb::Boot).unwrap();
    b.events();
    assert_eq!(b.machine.triple_fault().unwrap(), Outcome::Continues);
    assert_eq!(b.machine.apply(Effect::Reset).unwrap(), Outcome::Ended);
    assert_eq!(b.events(), [Event::Reset { cause: Cause::TripleFault }, stopped(Cause::GuestReset)]);
    assert_eq!(b.machine.unsavable(), ["vcpus", "serial", "ram"]);
}
