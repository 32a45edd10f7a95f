use crate::guest;
use crate::{Access, Backend, IoLog, TinyVm, run_through_io};
use drystone_hypervisor::{Error, Exit, VmConfig};

/// One vCPU waits in RAM for what the other writes there, each on its own thread.
pub fn two_vcpus_run_at_once(backend: &Backend) {
    let guests = [guest::waits_for_data(), guest::gives_data()];
    let mut tiny = TinyVm::with_guests(backend, VmConfig::bare(), &guests);
    let run = |mut vcpu: Box<dyn drystone_hypervisor::Vcpu>| {
        std::thread::spawn(move || {
            let mut io = IoLog::new();
            assert_eq!(run_through_io(vcpu.as_mut(), &mut io), Exit::Halted);
            (vcpu.id(), io.take())
        })
    };
    let threads: Vec<_> = tiny.vcpus.drain(..).map(run).collect();
    let ends: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    assert_eq!(ends, [(0, vec![Access::Out(0x10, vec![7])]), (1, vec![Access::Out(0x11, vec![1])])]);
}

/// A vCPU's number is its local APIC's: it is never given twice, not even when the vCPU is gone.
pub fn a_number_is_used_once(backend: &Backend) {
    let mut tiny = TinyVm::new(backend, VmConfig::bare(), guest::spins());
    assert!(matches!(tiny.vm.create_vcpu(0), Err(Error::Invalid { .. })));
    tiny.vcpus.clear();
    assert!(matches!(tiny.vm.create_vcpu(0), Err(Error::Invalid { .. })));
    assert!(matches!(tiny.vm.create_vcpu(u32::MAX), Err(Error::Invalid { .. })));
    assert_eq!(tiny.vm.create_vcpu(3).unwrap().id(), 3);
}
