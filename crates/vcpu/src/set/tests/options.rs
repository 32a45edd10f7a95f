//! What threads and vCPUs are given beyond what every machine needs.

use super::*;
use crate::msr::{MsrBank, MsrPolicy, MsrRule};
use drystone_state::Persist;

/// Emulated.
const CELL: u32 = 0x5000_0000;
/// Denied.
const HIDDEN: u32 = 0x5000_0001;

fn policy() -> MsrPolicy {
    let mut policy = MsrPolicy::new();
    policy.push("0x50000000".parse().unwrap(), MsrRule::Emulate(7)).unwrap();
    policy.push("0x50000001".parse().unwrap(), MsrRule::Deny).unwrap();
    policy
}

fn made(
    options: &VcpuOptions,
    config: &VmConfig,
    program: impl Fn(&mut GuestCpu) + Send + Sync + 'static,
) -> Result<VcpuSet, VcpuError> {
    let vcpus = vcpus(&FakeHypervisor::new(program), 3, config);
    let boot = |_: &mut dyn Vcpu| Ok(());
    VcpuSet::with_options(vcpus, Arc::default(), Arc::new(drop), Arc::new(boot), options)
}

fn with_setup(setup: impl Fn(usize) -> std::io::Result<()> + Send + Sync + 'static) -> VcpuOptions {
    VcpuOptions { on_thread: Some(Arc::new(setup)), ..VcpuOptions::default() }
}

#[test]
fn each_thread_is_made_ready_on_itself_before_the_set_is_there() {
    let (sender, places) = mpsc::channel();
    let sender = Mutex::new(sender);
    let options = with_setup(move |place| {
        let name = thread::current().name().map(str::to_owned);
        sender.lock().unwrap().send((place, name)).unwrap();
        Ok(())
    });
    let _set = made(&options, &VmConfig::bare(), |_| {}).unwrap();
    let mut ready: Vec<_> = places.try_iter().collect();
    ready.sort();
    assert_eq!(ready, [0, 1, 2].map(|n| (n, Some(format!("vcpu{n}")))));
}

#[test]
fn a_thread_that_cannot_be_made_ready_is_an_error_and_leaves_nothing() {
    let failing = |place| if place == 1 { Err(std::io::Error::other("no such processor")) } else { Ok(()) };
    let error = made(&with_setup(failing), &VmConfig::bare(), |_| {}).err().unwrap().to_string();
    assert_eq!(error, "vCPU 1: cannot prepare its thread: no such processor");
    let error = made(&with_setup(|_| panic!("a bug")), &VmConfig::bare(), |_| {}).err().unwrap().to_string();
    assert_eq!(error, "vCPU 0: cannot prepare its thread: it panicked");
}

#[test]
fn emulated_registers_are_each_vcpus_own() {
    let bank = Arc::new(MsrBank::new(Arc::new(policy()), 0..3));
    let options = VcpuOptions { msrs: Some(bank.clone()), ..VcpuOptions::default() };
    let mut config = VmConfig::bare();
    config.msrs = policy().filter();
    let done = Arc::new(AtomicU64::new(0));
    let seen = done.clone();
    let set = made(&options, &config, move |cpu| {
        let id = u64::from(cpu.id());
        let first = cpu.try_rdmsr(CELL);
        let good = cpu.try_wrmsr(CELL, 100 + id) && cpu.try_rdmsr(CELL) == Some(100 + id);
        if good && first == Some(7) && cpu.try_rdmsr(HIDDEN).is_none() && !cpu.try_wrmsr(HIDDEN, 1) {
            seen.fetch_add(1, Ordering::SeqCst);
        }
        loop {
            cpu.out8(COUNT, 0);
        }
    })
    .unwrap();
    set.resume().unwrap();
    while done.load(Ordering::SeqCst) < 3 {
        thread::yield_now();
    }
    set.pause().unwrap();
    let counts: Vec<_> = bank.counts().into_iter().map(|c| (c.registers, c.reads, c.writes)).collect();
    assert_eq!(counts, [("0x50000000".to_owned(), 6, 3), ("0x50000001".to_owned(), 3, 3)]);
    let saved = Persist::save(&*bank).unwrap();
    assert_eq!(saved.values, [0, 1, 2].map(|id| (id, [(CELL, 100 + u64::from(id))].into())).into());
}
