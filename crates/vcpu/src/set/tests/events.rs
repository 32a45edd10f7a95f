//! What parks a vCPU by itself.

use super::*;
use drystone_hypervisor::RunError;
use drystone_hypervisor::fake::Op;
use drystone_state::Persist;

#[test]
fn an_effect_is_the_guests_last_write_and_other_vcpus_go_on() {
    let rig = Rig::new(2, |cpu| {
        if cpu.id() == 0 {
            cpu.out8(POWER, 2);
            cpu.out8(POWER, 1);
        }
        count_for_ever(cpu);
    });
    rig.resume();
    let event = rig.event();
    assert!(matches!(event.kind, VcpuEventKind::Effect(Effect::PowerOff)), "{event:?}");
    assert_eq!(event.id, 0);
    assert!(rig.set.is_current(&event));
    rig.wait_counts(100);
    rig.pause();
    assert_eq!(rig.host.recorder().ops(0), [Op::PioWrite { port: POWER, data: vec![2] }]);
    let counts = rig.set.counts(0).unwrap();
    assert_eq!((counts.pio_writes, counts.interrupted), (1, 1), "one more entry completed the instruction");
    // Resuming does not take the guest past its power-off.
    for _ in 0..10 {
        rig.resume();
        rig.wait_counts(1);
        rig.pause();
    }
    assert_eq!(rig.host.recorder().ops(0).len(), 1);
    rig.no_event();
}

#[test]
fn every_kind_of_event_comes_once_and_a_reset_starts_the_guest_again() {
    let rig = Rig::new(4, |cpu| match cpu.id() {
        0 => cpu.out8(POWER, 1),
        1 => cpu.shutdown(),
        2 => loop {
            cpu.halt();
        },
        _ => cpu.fail("out of ideas"),
    });
    let mut old = Vec::new();
    for _ in 0..3 {
        rig.resume();
        let mut events: Vec<_> = (0..4).map(|_| rig.event()).collect();
        events.sort_by_key(|e| e.id);
        assert!(matches!(events[0].kind, VcpuEventKind::Effect(Effect::Reset)), "{:?}", events[0]);
        assert!(matches!(events[1].kind, VcpuEventKind::TripleFault), "{:?}", events[1]);
        assert!(matches!(events[2].kind, VcpuEventKind::Halted), "{:?}", events[2]);
        assert!(matches!(&events[3].kind, VcpuEventKind::Fault(e) if e.to_string().contains("out of ideas")));
        for _ in 0..10 {
            rig.pause();
            rig.resume();
        }
        rig.pause();
        rig.no_event();
        assert!(events.iter().all(|e| rig.set.is_current(e)));
        rig.set.reset().unwrap();
        old.extend(events);
        assert!(!old.iter().any(|e| rig.set.is_current(e)), "a reset has dealt with them");
    }
    assert_eq!(rig.set.counts(3).unwrap().faults, 3);
}

#[test]
fn a_guest_that_reset_once_is_not_reset_again() {
    let lives = AtomicU32::new(0);
    let rig = Rig::new(1, move |cpu| {
        if lives.fetch_add(1, Ordering::SeqCst) == 0 {
            cpu.out8(POWER, 1);
        }
        count_for_ever(cpu);
    });
    rig.resume();
    rig.event();
    rig.pause();
    rig.set.reset().unwrap();
    for _ in 0..3 {
        rig.resume();
        rig.wait_counts(1);
        rig.pause();
    }
    rig.no_event();
}

#[test]
fn a_released_vcpu_goes_on_behind_its_event() {
    let rig = Rig::new(1, |cpu| {
        for _ in 0..200 {
            cpu.out8(POWER, 1);
        }
        count_for_ever(cpu);
    });
    rig.resume();
    let mut last = rig.event();
    for _ in 1..200 {
        // At once: its thread may not have parked yet.
        rig.set.release(&last).unwrap();
        last = rig.event();
    }
    rig.pause();
    rig.set.release(&last).unwrap();
    assert_eq!(rig.counts(), 0, "a paused set stays paused");
    rig.resume();
    rig.wait_counts(1);
    rig.set.release(&last).unwrap();
    rig.wait_counts(1);
    rig.pause();
    rig.no_event();
}

#[test]
fn a_release_that_comes_after_a_reset_does_nothing() {
    let rig = Rig::new(1, |cpu| cpu.out8(POWER, 1));
    rig.resume();
    let old = rig.event();
    rig.pause();
    rig.set.reset().unwrap();
    rig.resume();
    let new = rig.event();
    rig.set.release(&old).unwrap();
    rig.pause();
    assert!(rig.set.save().unwrap().vcpus[0].is_held(), "the new life's event still waits");
    assert!(rig.set.is_current(&new) && !rig.set.is_current(&old));
}

#[test]
fn an_event_is_handed_over_before_pause_returns() {
    for _ in 0..200 {
        let rig = Rig::new(1, |cpu| cpu.out8(POWER, 1));
        rig.resume();
        rig.pause();
        let happened = rig.host.recorder().ops(0).len();
        assert_eq!(rig.events.try_iter().count(), happened);
    }
}

#[test]
fn a_device_that_panics_is_a_fault_of_that_vcpu() {
    struct Broken;
    impl BusDevice for Broken {
        fn read(&self, _: u64, _: &mut [u8]) {
            // Unlike `panic!`, prints nothing.
            std::panic::resume_unwind(Box::new(()));
        }
        fn write(&self, _: u64, _: &[u8]) -> Effect {
            Effect::None
        }
    }
    let rig = Rig::new(1, |cpu| assert_eq!(cpu.in8(0x30), 0));
    rig.bus.pio.insert(0x30, 1, Arc::new(Broken)).unwrap();
    rig.resume();
    let event = rig.event();
    assert!(matches!(&event.kind, VcpuEventKind::Fault(RunError::Unexpected { id: 0, .. })), "{event:?}");
    rig.pause();
}

#[test]
fn a_sink_that_panics_does_not_keep_the_set_from_pausing() {
    let host = FakeHypervisor::new(|cpu| cpu.shutdown());
    let (sender, called) = mpsc::channel();
    let sink = move |_| {
        sender.send(()).unwrap();
        std::panic::resume_unwind(Box::new(()));
    };
    let boot = Arc::new(|_: &mut dyn Vcpu| Ok(()));
    let vcpus = vcpus(&host, 1, &VmConfig::bare());
    let set = VcpuSet::new(vcpus, Arc::default(), Arc::new(sink), boot).unwrap();
    set.resume().unwrap();
    called.recv().unwrap();
    set.pause().unwrap();
}
