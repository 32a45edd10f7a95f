//! When the host fails in the middle of anything, the error says which vCPU and what, no thread is left, and what can be
//! asked again works.
#![allow(missing_docs, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_bus::{Bus, BusDevice, Effect};
use drystone_hypervisor::fake::{Call, FakeHypervisor, Faults, Faulty, GuestCpu};
use drystone_hypervisor::{Error, Hypervisor, Regs, Vcpu, VmConfig};
use drystone_state::Component;
use drystone_vcpu::{VcpuError, VcpuEvent, VcpuEventKind, VcpuSet};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

const VCPUS: u32 = 3;

/// Counts writes.
#[derive(Default)]
struct Counter(AtomicU64);
impl BusDevice for Counter {
    fn read(&self, _: u64, _: &mut [u8]) {}
    fn write(&self, _: u64, _: &[u8]) -> Effect {
        self.0.fetch_add(1, SeqCst);
        Effect::None
    }
}

fn guest(cpu: &mut GuestCpu) {
    loop {
        cpu.out8(0x10, 0);
    }
}

type Parts = (VcpuSet, Arc<Counter>, mpsc::Receiver<VcpuEvent>);

fn set(faults: &Faults) -> Result<Parts, VcpuError> {
    let vm = Faulty::new(FakeHypervisor::new(guest), faults).create_vm(&VmConfig::bare()).unwrap();
    let vcpus = (0..VCPUS).map(|id| vm.create_vcpu(id).unwrap()).collect();
    let (bus, counter) = (Arc::new(Bus::default()), Arc::new(Counter::default()));
    bus.pio.insert(0x10, 1, counter.clone()).unwrap();
    let (sender, events) = mpsc::channel();
    let boot = |vcpu: &mut dyn Vcpu| -> Result<(), Error> {
        let regs = vcpu.regs()?;
        vcpu.set_regs(&Regs { rip: 0x10_0000, ..regs })
    };
    let sink = Arc::new(move |event| sender.send(event).unwrap_or_default());
    Ok((VcpuSet::new(vcpus, bus, sink, Arc::new(boot))?, counter, events))
}

fn runs(counter: &Counter) {
    let before = counter.0.load(SeqCst);
    while counter.0.load(SeqCst) < before + 10 {
        std::thread::yield_now();
    }
}

/// The tests here look at the threads of their whole process, so one runs at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// How many vCPU threads this process has.
fn vcpu_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.filter(|name| name.starts_with("vcpu")).count()
}

/// A thread that was joined may be listed a moment longer: the kernel wakes who waits before it forgets the thread.
fn no_vcpu_thread_is_left() {
    let begun = Instant::now();
    while vcpu_threads() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} vCPU threads are left", vcpu_threads());
        std::thread::yield_now();
    }
}

/// Start, pause, resume, reset, resume, with one call that fails. A step that fails is asked again.
fn life(faults: &Faults) -> Vec<String> {
    let mut errors = Vec::new();
    let (set, counter, events) = match set(faults) {
        Ok(parts) => parts,
        Err(e) => return vec![e.to_string()],
    };
    let mut step = |step: &dyn Fn() -> Result<(), drystone_state::ComponentError>| {
        if let Err(e) = step() {
            errors.push(e.to_string());
            step().unwrap();
        }
    };
    step(&|| set.resume());
    runs(&counter);
    step(&|| set.pause());
    step(&|| set.resume());
    runs(&counter);
    step(&|| set.pause());
    step(&|| set.reset());
    step(&|| set.resume());
    runs(&counter);
    drop(set);
    errors.extend(events.try_iter().map(|event| match event.kind {
        VcpuEventKind::Fault(e) => e.to_string(),
        other => panic!("{other:?}"),
    }));
    errors
}

#[test]
fn every_call_may_fail_once() {
    let _alone = ALONE.lock();
    assert!(life(&Faults::new()).is_empty());
    // How often a call is made at least, and what the error calls it.
    let calls = [
        (Call::SaveVcpu, VCPUS, "read its state"),
        (Call::Regs, 2 * VCPUS, "set its boot state"),
        (Call::SetRegs, 2 * VCPUS, "set its boot state"),
        (Call::NotifyStopped, VCPUS, "tell the guest that it was stopped"),
        (Call::RestoreVcpu, VCPUS, "reset its state"),
    ];
    for (call, times, attempt) in calls {
        for nth in 1..=times {
            let faults = Faults::new().fail(call, nth);
            let errors = life(&faults);
            let id = (nth - 1) % VCPUS;
            let expected = format!(
                "vCPU {id}: cannot {attempt}: cannot make call {call:?} number {nth}: a planned fault"
            );
            assert_eq!(errors, [expected]);
            assert!(faults.used_up());
        }
    }
    no_vcpu_thread_is_left();
}

/// A run that fails is an event of its vCPU alone; one that is interrupted by a stranger is nothing at all.
#[test]
fn every_run_may_fail_or_be_interrupted() {
    let _alone = ALONE.lock();
    for nth in [1, 2, 7, 20] {
        let errors = life(&Faults::new().interrupt(nth).interrupt(nth + 1));
        assert!(errors.is_empty(), "{errors:?}");
        let errors = life(&Faults::new().fail(Call::Run, nth));
        assert_eq!(errors.len(), 1);
        assert!(errors[0].ends_with("cannot run: a planned fault"), "{errors:?}");
    }
    no_vcpu_thread_is_left();
}
