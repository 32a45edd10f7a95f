//! Resetting, saving, restoring.

use super::*;
use drystone_state::{Persist, RestoreError};

/// Keeps what it has done in a register, as a real guest does: it goes on where it was saved.
fn count_in_rbx(cpu: &mut GuestCpu) {
    loop {
        cpu.set_regs(|r| r.rbx += 1);
        cpu.out8(COUNT, 0);
    }
}

#[test]
fn a_reset_gives_back_the_first_state_and_boots_again() {
    let rig = Rig::new(2, count_in_rbx);
    rig.resume();
    rig.wait_counts(10);
    rig.pause();
    rig.set
        .with_vcpu(1, |v| v.set_regs(&Regs { rip: 0xdead, rbx: 1 << 40, ..Regs::default() }))
        .unwrap()
        .unwrap();
    rig.set.reset().unwrap();
    assert_eq!(rig.boots.load(Ordering::SeqCst), 4);
    for id in 0..2 {
        let regs = rig.regs(id);
        assert_eq!((regs.rip, regs.rbx, regs.rflags), (ENTRY, 0, 2));
    }
    assert_eq!(rig.board.violations.load(Ordering::SeqCst), 0, "a reset does not start anything");
    rig.resume();
    rig.wait_counts(10);
    assert_eq!(rig.boots.load(Ordering::SeqCst), 4, "booted once");
}

#[test]
fn a_reset_before_the_first_start_boots_nothing() {
    let rig = Rig::new(1, count_for_ever);
    rig.set.reset().unwrap();
    assert_eq!(rig.boots.load(Ordering::SeqCst), 0);
    rig.resume();
    rig.wait_counts(1);
    assert_eq!(rig.boots.load(Ordering::SeqCst), 1);
}

/// A second set on a host that runs `program`, with what `rig` saves.
fn restored(rig: &Rig, program: impl Fn(&mut GuestCpu) + Send + Sync + 'static) -> Rig {
    let blob = rig.set.persist().unwrap().save_blob().unwrap();
    let fresh = Rig::new(rig.set.slots.len() as u32, program);
    fresh.set.persist().unwrap().restore_blob(&blob).unwrap();
    fresh
}

/// Whoever holds a set knows what the host could not give that saved its state.
#[test]
fn what_a_saved_set_lacks_is_named_once() {
    let host = FakeHypervisor::new(count_for_ever).with_unsaved(["one thing", "another"]);
    let (old, _events) = set(vcpus(&host, 2, &VmConfig::bare()), Arc::default(), Arc::default());
    old.resume().unwrap();
    assert!(matches!(old.unsaved(), Err(VcpuError::NotPaused(_))));
    old.pause().unwrap();
    let blob = old.persist().unwrap().save_blob().unwrap();
    let fresh = Rig::new(2, count_for_ever);
    assert!(fresh.set.unsaved().unwrap().is_empty());
    fresh.set.persist().unwrap().restore_blob(&blob).unwrap();
    for set in [&old, &fresh.set] {
        assert_eq!(set.unsaved().unwrap(), ["another", "one thing"]);
    }
}

/// A guest is told of each pause, on every vCPU, and not of its start.
#[test]
fn a_guest_is_told_that_it_was_stopped() {
    let rig = Rig::new(1, |cpu| {
        loop {
            let told = u64::from(cpu.take_stopped());
            cpu.set_regs(|r| r.rbx += told);
            cpu.out8(COUNT, 0);
        }
    });
    for resumes in 0..4 {
        rig.resume();
        rig.resume();
        rig.wait_counts(10);
        rig.pause();
        assert_eq!(rig.regs(0).rbx, resumes);
    }
    let rig = Rig::new(3, |cpu| {
        while !cpu.take_stopped() {
            cpu.step();
        }
        cpu.out8(COUNT, 0);
    });
    rig.resume();
    rig.pause();
    assert_eq!(rig.counts(), 0);
    rig.resume();
    rig.wait_counts(3);
}

#[test]
fn a_saved_set_goes_on_in_another() {
    let rig = Rig::new(2, count_in_rbx);
    rig.resume();
    rig.wait_counts(10);
    assert!(rig.set.save().unwrap_err().to_string().contains("while the vCPUs run"));
    rig.pause();
    let fresh = restored(&rig, count_in_rbx);
    for id in 0..2 {
        assert_eq!(fresh.regs(id), rig.regs(id));
        assert!(fresh.regs(id).rbx > 0 || id > 0);
    }
    fresh.resume();
    fresh.wait_counts(10);
    fresh.pause();
    assert_eq!(fresh.boots.load(Ordering::SeqCst), 0, "it had been booted before it was saved");
    assert!(fresh.regs(0).rbx + fresh.regs(1).rbx > rig.regs(0).rbx + rig.regs(1).rbx);
    // The set's own first state is what a reset goes back to.
    fresh.set.reset().unwrap();
    assert_eq!(fresh.regs(0).rbx, 0);
}

#[test]
fn an_event_that_nobody_decided_about_is_reported_again_after_a_restore() {
    let program = |cpu: &mut GuestCpu| match cpu.id() {
        0 => cpu.out8(POWER, 2),
        1 => cpu.shutdown(),
        2 => cpu.halt(),
        _ => count_for_ever(cpu),
    };
    let rig = Rig::new(4, program);
    rig.resume();
    (0..3).for_each(|_| drop(rig.event()));
    rig.pause();
    let fresh = restored(&rig, |cpu| {
        assert_eq!(cpu.id(), 3, "a vCPU that was parked by an event ran on");
        count_for_ever(cpu);
    });
    fresh.no_event();
    fresh.resume();
    let kinds: Vec<_> = (0..3).map(|_| fresh.event()).collect();
    assert!(matches!(kinds[0].kind, VcpuEventKind::Effect(Effect::PowerOff)));
    assert!(matches!(kinds[1].kind, VcpuEventKind::TripleFault));
    assert!(matches!(kinds[2].kind, VcpuEventKind::Halted));
    fresh.wait_counts(10);
    fresh.pause();
    fresh.resume();
    fresh.no_event();
    // And it can be saved once more, with its events.
    fresh.pause();
    let again = restored(&fresh, count_for_ever);
    again.resume();
    (0..3).for_each(|_| drop(again.event()));
    // A reset has done with them.
    fresh.set.reset().unwrap();
    let reset = restored(&fresh, count_for_ever);
    reset.resume();
    reset.no_event();
}

#[test]
fn what_makes_no_sense_is_not_saved_or_restored() {
    let rig = Rig::new(2, |cpu| cpu.fail("stuck"));
    assert_eq!(rig.set.save().unwrap_err().to_string(), "cannot save: vCPUs have not started yet");
    rig.resume();
    (0..2).for_each(|_| drop(rig.event()));
    rig.pause();
    let refused = rig.set.save().unwrap_err().to_string();
    assert!(refused.starts_with("cannot save: vCPU 0 cannot go on: "), "{refused}");

    let rig = Rig::new(2, count_for_ever);
    rig.resume();
    rig.pause();
    let good = rig.set.save().unwrap();
    let refuse = |change: fn(&mut VcpusState)| {
        let mut state = good.clone();
        change(&mut state);
        let fresh = Rig::new(2, count_for_ever);
        match fresh.set.restore(state) {
            Err(RestoreError::Invalid { kind: "vcpus", cause }) => cause,
            other => panic!("{other:?}"),
        }
    };
    assert!(refuse(|s| s.vcpus.truncate(1)).contains("has 1 vCPUs"));
    assert!(refuse(|s| s.vcpus.extend(s.vcpus.clone())).contains("has 4 vCPUs"));
    assert!(refuse(|s| s.vcpus.reverse()).contains("[1, 0]"));
    let foreign = |s: &mut VcpusState| s.vcpus[1].state = Blob::encode(&drystone_state::NoState {}).unwrap();
    assert!(refuse(foreign).starts_with("vCPU 1: "), "{}", refuse(foreign));
}
