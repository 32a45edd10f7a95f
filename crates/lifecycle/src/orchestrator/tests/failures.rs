//! Components that fail.

use super::*;

#[test]
fn a_pause_that_fails_is_undone_and_says_who_failed() {
    let mut rig = Rig::at(State::Running);
    rig.part("disk").fail(["pause"]);
    let error = rig.machine.pause().unwrap_err();
    assert!(
        matches!(&error, Error::Component { verb: Verb::Pause, name, .. } if name == "disk"),
        "{error:?}"
    );
    assert_eq!(error.to_string(), "cannot pause: disk: pause does not work");
    assert_eq!(rig.log.take(), "pause vcpus, pause serial, pause disk, resume serial, resume vcpus");
    assert_eq!(rig.events.take(), [Event::Error(error.to_string())]);
    assert!(rig.all_running(true) && rig.machine.state() == State::Running && !rig.machine.is_stuck());
    rig.part("disk").fail([]);
    rig.machine.pause().unwrap();
}

#[test]
fn a_resume_that_fails_is_undone_and_says_who_failed() {
    let mut rig = Rig::at(State::Paused);
    rig.part("disk").fail(["resume"]);
    let error = rig.machine.resume().unwrap_err();
    assert_eq!(error.to_string(), "cannot resume: disk: resume does not work");
    assert_eq!(
        rig.log.take(),
        "resume console, resume ram, resume board, resume disk, pause board, pause ram, pause console"
    );
    assert!(rig.all_running(false) && rig.machine.state() == State::Paused);
    rig.part("disk").fail([]);
    rig.machine.resume().unwrap();
}

#[test]
fn a_boot_that_fails_leaves_the_machine_as_it_was_built() {
    let mut rig = Rig::at(State::Built);
    rig.part("vcpus").fail(["resume"]);
    assert_eq!(rig.machine.boot().unwrap_err().to_string(), "cannot boot: vcpus: resume does not work");
    assert!(rig.all_running(false) && rig.machine.state() == State::Built);
    rig.part("vcpus").fail([]);
    rig.machine.boot().unwrap();
}

#[test]
fn a_step_that_cannot_be_undone_can_be_tried_again_in_both_directions() {
    for (verb, state) in [(Verb::Pause, State::Paused), (Verb::Resume, State::Running)] {
        let mut rig = Rig::at(State::Running);
        rig.part("disk").fail(["pause"]);
        rig.part("vcpus").fail(["resume"]);
        let error = rig.machine.pause().unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot pause: disk: pause does not work; and cannot undo it: vcpus: resume does not work"
        );
        assert!(matches!(error, Error::Stuck { .. }) && rig.machine.is_stuck());
        assert!(!rig.part("vcpus").running() && rig.part("serial").running(), "the others are back");
        rig.parts.iter().for_each(|p| p.fail([]));
        rig.log.take();
        rig.ask(verb).unwrap();
        assert_eq!(rig.log.take(), if verb == Verb::Pause { PAUSE } else { RESUME });
        assert!(rig.machine.state() == state && rig.all_running(state == State::Running));
        assert!(!rig.machine.is_stuck());
    }
    let mut rig = Rig::at(State::Paused);
    rig.part("disk").fail(["resume"]);
    rig.part("ram").fail(["pause"]);
    assert!(matches!(rig.machine.resume(), Err(Error::Stuck { .. })));
    assert_eq!(rig.machine.state(), State::Paused);
    rig.parts.iter().for_each(|p| p.fail([]));
    rig.events.take();
    rig.machine.pause().unwrap();
    assert_eq!(rig.events.take(), [], "it is called what it was called");
    assert!(rig.all_running(false), "pausing what is called paused, and is not, pauses it");
}

#[test]
fn a_reset_that_fails_ends_the_machine() {
    let mut rig = Rig::at(State::Running);
    rig.part("serial").fail(["reset"]);
    let error = rig.machine.reset(Cause::GuestReset).unwrap_err();
    assert_eq!(error.to_string(), "cannot reset: serial: reset does not work");
    assert_eq!(
        rig.log.take(),
        format!("{PAUSE}, reset console, reset ram, reset board, reset disk, reset serial")
    );
    let status = rig.machine.reader().status();
    assert_eq!(status.end, Some(Cause::Fault("cannot reset: serial: reset does not work".into())));
    assert_eq!((status.state, status.resets), (State::Stopped, 0));
    assert!(rig.all_running(false));
}

#[test]
fn a_reset_whose_pause_fails_changes_nothing() {
    let mut rig = Rig::at(State::Running);
    rig.part("ram").fail(["pause"]);
    assert!(rig.machine.reset(Cause::Operator).is_err());
    assert!(!rig.log.take().contains("reset"));
    assert!(rig.machine.state() == State::Running && rig.all_running(true));
}

#[test]
fn a_reset_whose_resume_fails_leaves_the_machine_paused() {
    let mut rig = Rig::at(State::Running);
    rig.part("serial").fail(["resume"]);
    let error = rig.machine.reset(Cause::Operator).unwrap_err();
    assert!(rig.machine.state() == State::Paused && rig.all_running(false));
    assert_eq!(rig.machine.reader().status().resets, 1);
    let why = Cause::Fault(error.to_string());
    assert_eq!(rig.events.take().last(), Some(&changed(State::Running, State::Paused, why)));
    rig.part("serial").fail([]);
    rig.machine.resume().unwrap();
}

#[test]
fn a_stuck_machine_is_stood_still_before_it_is_reset_or_stopped() {
    for stop in [false, true] {
        let mut rig = Rig::at(State::Paused);
        rig.part("disk").fail(["resume"]);
        rig.part("ram").fail(["pause"]);
        assert!(rig.machine.resume().is_err() && rig.machine.is_stuck());
        rig.parts.iter().for_each(|p| p.fail([]));
        if stop {
            rig.machine.stop(Cause::Operator);
        } else {
            rig.machine.reset(Cause::Operator).unwrap();
            assert_eq!(rig.machine.state(), State::Paused);
        }
        assert!(rig.all_running(false) && !rig.machine.is_stuck());
    }
}

#[test]
fn a_machine_is_stopped_whatever_its_components_say() {
    let mut rig = Rig::at(State::Running);
    rig.parts.iter().for_each(|p| p.fail(["pause"]));
    rig.machine.stop(Cause::Fault("vCPU 0: cannot run".into()));
    assert_eq!(rig.log.take(), PAUSE, "everybody is asked");
    let events = rig.events.take();
    assert_eq!(events[0], Event::Error("cannot stop: vcpus: pause does not work".into()));
    assert_eq!(events.len(), 7);
    let cause = Cause::Fault("vCPU 0: cannot run".into());
    assert_eq!(events[6], changed(State::Running, State::Stopped, cause));
}
