//! Saving and restoring.

use super::*;

/// All orders of `n` things.
fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![vec![]];
    }
    let shorter = permutations(n - 1);
    let with_last = |order: &Vec<usize>| {
        (0..n).map(|at| [&order[..at], &[n - 1], &order[at..]].concat()).collect::<Vec<_>>()
    };
    shorter.iter().flat_map(with_last).collect()
}

const PARTS: [(Stage, &str); 6] = [
    (Stage::Vcpus, "vcpus"),
    (Stage::Devices, "serial"),
    (Stage::Devices, "disk"),
    (Stage::Controllers, "board"),
    (Stage::Backends, "ram"),
    (Stage::Backends, "console"),
];

fn machine(order: &[usize], log: &Log) -> (Orchestrator, Vec<Arc<Recorder>>) {
    let mut machine = Orchestrator::new(Policy::default(), Arc::new(|_| ()));
    let mut parts = Vec::new();
    for (stage, name) in order.iter().map(|n| PARTS[*n]) {
        let part = Arc::new(Recorder { name, log: log.clone(), savable: true, inner: Mutex::default() });
        machine.add(stage, name, part.clone()).unwrap();
        parts.push(part);
    }
    (machine, parts)
}

/// The stages of the parts that `verb` was said to, in order.
fn stages(calls: &str, verb: &str) -> Vec<Stage> {
    let names = calls.split(", ").filter_map(|call| call.strip_prefix(verb)?.strip_prefix(' '));
    names.map(|name| PARTS.iter().find(|(_, n)| *n == name).unwrap().0).collect()
}

#[test]
fn the_order_holds_however_parts_were_registered() {
    for order in permutations(PARTS.len()) {
        let log = Log::default();
        let (mut old, _) = machine(&order, &log);
        old.boot().unwrap();
        log.take();
        old.pause().unwrap();
        let saved = old.save().unwrap();
        let calls = log.take();
        assert!(calls.rfind("pause") < calls.find("save"), "all stand still before one is saved: {calls}");
        assert_eq!(saved.len(), PARTS.len());

        let other_order: Vec<_> = order.iter().rev().copied().collect();
        let (mut new, _) = machine(&other_order, &log);
        new.restore(&saved).unwrap();
        assert_eq!(new.state(), State::Paused);
        new.resume().unwrap();
        let calls = log.take();
        let (restored, resumed) = (stages(&calls, "restore"), stages(&calls, "resume"));
        assert_eq!((restored.len(), resumed.len()), (PARTS.len(), PARTS.len()));
        assert!(restored.is_sorted_by(|a, b| a >= b), "what a part stands on comes first: {calls}");
        assert!(
            calls.rfind("restore") < calls.find("resume"),
            "all are restored before one goes on: {calls}"
        );
    }
}

#[test]
fn what_was_saved_is_what_the_new_machine_has() {
    let mut old = Rig::at(State::Paused);
    old.machine.resume().unwrap();
    old.machine.pause().unwrap();
    let saved = old.machine.save().unwrap();
    let mut new = Rig::at(State::Built);
    new.machine.restore(&saved).unwrap();
    assert_eq!(new.machine.save().unwrap(), saved);
    assert!(new.parts.iter().all(|p| p.inner.lock().unwrap().resumed == 2));
    // The old one goes on as if nothing had happened.
    old.machine.resume().unwrap();
    assert!(old.all_running(true));
}

#[test]
fn a_state_of_another_machine_touches_nothing() {
    let good = saved();
    let mut twice = good.clone();
    twice.push(good[0].clone());
    let mut foreign = good.clone();
    foreign[2].name = "gpu".into();
    let short = good[1..].to_vec();
    for (state, said) in [
        (twice, "this one lacks vcpus, vcpus"),
        (foreign, "it lacks disk; this one lacks gpu"),
        (short, "it lacks vcpus"),
    ] {
        let mut rig = Rig::at(State::Built);
        let refused = rig.machine.restore(&state).unwrap_err().to_string();
        assert_eq!(refused, format!("cannot restore: the saved state is of another machine; {said}"));
        assert_eq!((rig.log.take().as_str(), rig.machine.state()), ("", State::Built));
        rig.machine.restore(&good).unwrap();
    }
}

#[test]
fn a_part_that_refuses_ends_the_new_machine_and_none_of_the_old() {
    let mut new = Rig::at(State::Built);
    new.part("disk").fail(["restore"]);
    let refused = new.machine.restore(&saved()).unwrap_err().to_string();
    assert_eq!(refused, "cannot restore: disk: invalid recorder state: restore does not work");
    assert_eq!(new.machine.state(), State::Stopped);
    assert_eq!(new.log.take(), "restore console, restore ram, restore board, restore disk");

    let old = Rig::at(State::Paused);
    old.part("disk").fail(["save"]);
    let refused = old.machine.save().unwrap_err().to_string();
    assert_eq!(refused, "disk: cannot save: save does not work");
    assert_eq!(old.machine.state(), State::Paused);
    old.part("disk").fail([]);
    old.machine.save().unwrap();
}

#[test]
fn what_does_not_stand_still_is_not_saved() {
    let mut rig = Rig::at(State::Paused);
    rig.part("disk").fail(["resume"]);
    rig.part("ram").fail(["pause"]);
    assert!(matches!(rig.machine.resume(), Err(Error::Stuck { .. })));
    rig.log.take();
    assert!(matches!(rig.machine.save(), Err(Error::NotStill)));
    assert_eq!(rig.log.take(), "");
}
