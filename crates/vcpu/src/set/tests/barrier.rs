//! Pausing, resuming, stopping.

use super::*;
use std::sync::Barrier;

#[test]
fn nothing_runs_before_resume_or_after_pause() {
    let rig = Rig::new(3, count_for_ever);
    rig.board.frozen.store(true, Ordering::SeqCst);
    assert_eq!(rig.counts(), 0);
    for _ in 0..50 {
        rig.resume();
        rig.wait_counts(20);
        rig.pause();
        rig.set.pause().unwrap(); // changes nothing
        assert_eq!(rig.board.violations.load(Ordering::SeqCst), 0);
    }
    rig.resume();
    rig.set.resume().unwrap(); // changes nothing
    rig.wait_counts(1);
    assert_eq!(rig.boots.load(Ordering::SeqCst), 3, "once for each vCPU");
}

#[test]
fn a_pause_right_after_a_resume_is_not_lost() {
    let rig = Rig::new(2, count_for_ever);
    for _ in 0..500 {
        rig.resume();
        rig.pause();
    }
    assert_eq!(rig.board.violations.load(Ordering::SeqCst), 0);
}

#[test]
fn a_guest_halted_in_the_hypervisor_is_paused_and_goes_on_halted() {
    let rig = Rig::with(2, &VmConfig::default(), |cpu| {
        cpu.out8(COUNT, 0);
        cpu.halt();
        cpu.out8(COUNT, 0);
    });
    rig.resume();
    rig.wait_counts(2);
    for _ in 0..20 {
        rig.pause();
        rig.resume();
    }
    rig.pause();
    assert_eq!(rig.counts(), 2, "nobody woke it");
    rig.no_event();
}

#[test]
fn a_pause_waits_for_the_device_that_a_vcpu_is_in() {
    struct Slow {
        inside: Barrier,
        go_on: Barrier,
        done: AtomicBool,
    }
    impl BusDevice for Slow {
        fn read(&self, _: u64, _: &mut [u8]) {}
        fn write(&self, _: u64, _: &[u8]) -> Effect {
            self.inside.wait();
            self.go_on.wait();
            self.done.store(true, Ordering::SeqCst);
            Effect::None
        }
    }
    let rig = Rig::new(2, |cpu| {
        if cpu.id() == 1 {
            cpu.out8(0x30, 0);
        }
        count_for_ever(cpu);
    });
    let slow = Arc::new(Slow { inside: Barrier::new(2), go_on: Barrier::new(2), done: false.into() });
    rig.bus.pio.insert(0x30, 1, slow.clone()).unwrap();
    rig.resume();
    slow.inside.wait();
    thread::scope(|scope| {
        let (set, board, done) = (&rig.set, &rig.board, &slow);
        let pause = scope.spawn(move || {
            set.pause().unwrap();
            board.frozen.store(true, Ordering::SeqCst);
            assert!(done.done.load(Ordering::SeqCst), "paused while a device was being called");
        });
        // vCPU 0 parks meanwhile; a barrier that only waits for the first would be through.
        rig.set.slots[0].gate.wait_parked();
        (0..100).for_each(|_| thread::yield_now());
        slow.go_on.wait();
        pause.join().unwrap();
    });
    assert_eq!(rig.board.violations.load(Ordering::SeqCst), 0);
}

#[test]
fn a_running_vcpu_cannot_be_looked_at_or_reset_and_a_paused_one_can() {
    let rig = Rig::new(1, count_for_ever);
    rig.resume();
    let refused = rig.set.with_vcpu(0, |_| ()).unwrap_err();
    assert_eq!(refused.to_string(), "cannot look at a vCPU while the vCPUs run");
    assert_eq!(rig.set.reset().unwrap_err().to_string(), "cannot reset while the vCPUs run");
    rig.pause();
    assert_eq!(rig.regs(0).rip, ENTRY);
    assert!(matches!(rig.set.with_vcpu(7, |_| ()), Err(VcpuError::Unknown(7))));
}

#[test]
fn stopping_ends_the_threads_for_good_and_leaves_the_registers() {
    let rig = Rig::new(2, count_for_ever);
    rig.resume();
    rig.wait_counts(3);
    rig.set.stop();
    rig.board.frozen.store(true, Ordering::SeqCst);
    rig.set.stop();
    rig.set.pause().unwrap();
    assert_eq!(rig.set.resume().unwrap_err().to_string(), "cannot resume: the vCPUs have been stopped");
    assert_eq!(rig.set.reset().unwrap_err().to_string(), "cannot reset: the vCPUs have been stopped");
    assert_eq!(rig.regs(1).rip, ENTRY);
    assert_eq!(rig.board.violations.load(Ordering::SeqCst), 0);
}

#[test]
fn dropping_a_set_in_any_state_ends_its_threads() {
    let _built = Rig::new(2, count_for_ever);
    let running = Rig::new(2, count_for_ever);
    running.resume();
    running.wait_counts(1);
    let board = running.board.clone();
    drop(running);
    assert_eq!(Arc::strong_count(&board), 1, "no thread holds the bus");
    let paused = Rig::new(2, count_for_ever);
    paused.resume();
    paused.pause();
    let held = Rig::new(2, |cpu| cpu.shutdown());
    held.resume();
    held.event();
}

#[test]
fn a_boot_state_that_fails_keeps_the_set_paused() {
    let host = FakeHypervisor::new(count_for_ever);
    let fail = Arc::new(AtomicBool::new(true));
    let seen = fail.clone();
    let boot = move |vcpu: &mut dyn Vcpu| {
        if seen.load(Ordering::SeqCst) && vcpu.id() == 1 {
            return Err(Error::Invalid { attempt: "boot".into(), why: "no kernel".into() });
        }
        Ok(())
    };
    let bus = Arc::new(Bus::default());
    let vcpus = vcpus(&host, 2, &VmConfig::bare());
    let set = VcpuSet::new(vcpus, bus, Arc::new(|_| {}), Arc::new(boot)).unwrap();
    let refused = set.resume().unwrap_err().to_string();
    assert_eq!(refused, "vCPU 1: cannot set its boot state: cannot boot: no kernel");
    assert_eq!(set.counts(0).unwrap().pio_writes, 0);
    set.with_vcpu(0, |_| ()).expect("still paused");
    fail.store(false, Ordering::SeqCst);
    set.resume().unwrap();
}

#[test]
fn the_sink_cannot_wait_for_its_own_thread() {
    let host = FakeHypervisor::new(|cpu| cpu.shutdown());
    let set: Arc<Mutex<Option<Arc<VcpuSet>>>> = Arc::default();
    let (sender, answers) = mpsc::channel();
    let seen = set.clone();
    let sink = move |_| {
        let set = lock(&seen).clone().unwrap();
        let with = set.with_vcpu(0, |_| ()).unwrap_err().to_string();
        let pause = set.pause().unwrap_err().to_string();
        set.stop();
        sender.send((with, pause)).unwrap();
    };
    let vcpus = vcpus(&host, 2, &VmConfig::bare());
    let boot = Arc::new(|_: &mut dyn Vcpu| Ok(()));
    let made = Arc::new(VcpuSet::new(vcpus, Arc::default(), Arc::new(sink), boot).unwrap());
    *lock(&set) = Some(made.clone());
    made.resume().unwrap();
    let (with, pause) = answers.recv().unwrap();
    assert_eq!(with, "cannot look at a vCPU from the event sink: it runs on a vCPU's own thread");
    assert_eq!(pause, "cannot pause from the event sink: it runs on a vCPU's own thread");
    *lock(&set) = None;
    made.stop();
}
