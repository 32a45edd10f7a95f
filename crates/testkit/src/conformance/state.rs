use super::configs;
use crate::guest;
use crate::{Backend, IoLog, TinyVm};
use drystone_hypervisor::{Clocks, Error, Exit, Msr, Vcpu, VmConfig};
use drystone_state::{Blob, NoState};

/// IA32_SYSENTER_EIP, a register that only holds a value.
const SYSENTER_EIP: u32 = 0x176;

/// Runs the guest of [`guest::counts`] for `count` outputs, and brings it to where its state is exact.
fn count(vcpu: &mut dyn Vcpu, io: &mut IoLog, count: usize) {
    for _ in 0..count {
        assert_eq!(vcpu.run(io).unwrap(), Exit::Io);
    }
    vcpu.kicker().kick();
    assert_eq!(vcpu.run(io).unwrap(), Exit::Interrupted);
}

/// Saved after an output, a guest goes on in another VM with the next one: none is lost, none comes twice.
pub fn a_save_in_the_middle_goes_on_in_a_fresh_vm(backend: &Backend) {
    for config in configs() {
        let mut io = IoLog::new();
        let mut old = TinyVm::new(backend, config.clone(), guest::counts());
        old.vcpu().set_msrs(&[Msr { index: SYSENTER_EIP, value: 0x1234_5678 }]).unwrap();
        for _ in 0..3 {
            count(old.vcpu(), &mut io, 5);
            let regs = old.vcpu().regs().unwrap();
            let (vm, vcpu) = (old.vm.save().unwrap(), old.vcpu().save().unwrap());
            drop(old);
            let mut new = TinyVm::new(backend, config.clone(), guest::counts());
            new.vm.restore(&vm, Clocks::GoOn).unwrap();
            new.vcpu().restore(&vcpu).unwrap();
            assert_eq!(new.vcpu().regs().unwrap(), regs);
            let msrs = new.vcpu().msrs(&[SYSENTER_EIP]).unwrap();
            assert_eq!(msrs, [Msr { index: SYSENTER_EIP, value: 0x1234_5678 }]);
            old = new;
        }
        assert_eq!(io.written(0x10), (0..15).collect::<Vec<u8>>(), "{config:?}");
    }
}

/// The state at creation, restored on the same vCPU, starts the guest anew, whatever it was doing.
pub fn restoring_the_first_state_is_a_reset(backend: &Backend) {
    for config in configs() {
        let mut tiny = TinyVm::new(backend, config.clone(), guest::counts());
        let (vm, vcpu) = (tiny.vm.save().unwrap(), tiny.vcpu().save().unwrap());
        let start = (tiny.vcpu().regs().unwrap(), tiny.vcpu().sregs().unwrap());
        for _ in 0..3 {
            let mut io = IoLog::new();
            count(tiny.vcpu(), &mut io, 4);
            assert_eq!(io.written(0x10), [0, 1, 2, 3]);
            tiny.vm.restore(&vm, Clocks::GoOn).unwrap();
            tiny.vcpu().restore(&vcpu).unwrap();
            assert_eq!((tiny.vcpu().regs().unwrap(), tiny.vcpu().sregs().unwrap()), start);
        }
        // The reset of a guest that is in the middle of an input, and of one that is halted.
        for guest in [guest::inputs_then_spins(), guest::halts()] {
            let mut tiny = TinyVm::new(backend, config.clone(), guest);
            let vcpu = tiny.vcpu().save().unwrap();
            let first = |tiny: &mut TinyVm| {
                let mut io = IoLog::new();
                if config.has_interrupts() {
                    tiny.vcpu().kicker().kick();
                    assert_eq!(tiny.vcpu().run(&mut io).unwrap(), Exit::Interrupted);
                }
                (tiny.vcpu().regs().unwrap(), io.take())
            };
            let start = first(&mut tiny);
            if !config.has_interrupts() {
                tiny.vcpu().run(&mut IoLog::new()).unwrap();
            }
            tiny.vcpu().restore(&vcpu).unwrap();
            assert_eq!(first(&mut tiny), start);
        }
    }
}

/// Another kind of state, another VM's, and one of another configuration.
pub fn foreign_and_broken_states_are_refused(backend: &Backend) {
    let mut tiny = TinyVm::new(backend, VmConfig::bare(), guest::counts());
    let mut other = TinyVm::new(backend, VmConfig::default(), guest::counts());
    let foreign = Blob::encode(&NoState {}).unwrap();
    let (vm, vcpu) = (tiny.vm.save().unwrap(), tiny.vcpu().save().unwrap());
    for blob in [&foreign, &vm] {
        assert!(matches!(tiny.vcpu().restore(blob), Err(Error::Invalid { .. })), "{}", blob.kind());
    }
    for blob in [&foreign, &vcpu] {
        assert!(matches!(tiny.vm.restore(blob, Clocks::GoOn), Err(Error::Invalid { .. })), "{}", blob.kind());
    }
    assert!(
        matches!(other.vm.restore(&vm, Clocks::GoOn), Err(Error::Invalid { .. })),
        "it has no interrupt controllers"
    );
    let mut io = IoLog::new();
    count(tiny.vcpu(), &mut io, 2);
    count(other.vcpu(), &mut io, 2);
    assert_eq!(io.written(0x10), [0, 1, 0, 1], "a refused state changes nothing");
}

/// What was set is there, and nothing else changed.
pub fn registers_read_back_as_set(backend: &Backend) {
    let mut tiny = TinyVm::new(backend, VmConfig::default(), guest::counts());
    let vcpu = tiny.vcpu();
    let mut regs = vcpu.regs().unwrap();
    (regs.rax, regs.r8, regs.r15) = (0x1122_3344_5566_7788, 8, u64::MAX);
    vcpu.set_regs(&regs).unwrap();
    assert_eq!(vcpu.regs().unwrap(), regs);
    let mut sregs = vcpu.sregs().unwrap();
    (sregs.cr2, sregs.gdt.limit, sregs.fs.base) = (0x1234_5000, 0x2f, 0xffff_8000_0000_1000);
    vcpu.set_sregs(&sregs).unwrap();
    assert_eq!((vcpu.sregs().unwrap(), vcpu.regs().unwrap()), (sregs, regs));
    let mut cpuid = vcpu.cpuid().unwrap();
    assert!(cpuid.get(1, 0).is_some());
    let leaf = cpuid.get_mut(0, 0).unwrap();
    (leaf.ebx, leaf.ecx, leaf.edx) = (0x7473_7244, 0x656e_6f74, 0x6574_7365);
    vcpu.set_cpuid(&cpuid).unwrap();
    assert_eq!(vcpu.cpuid().unwrap().get(0, 0), cpuid.get(0, 0));
    let nonsense = Msr { index: 0x1234_5678, value: 1 };
    let good = Msr { index: SYSENTER_EIP, value: 5 };
    for error in [vcpu.set_msrs(&[good, nonsense]), vcpu.msrs(&[SYSENTER_EIP, nonsense.index]).map(drop)] {
        let Err(Error::Invalid { attempt, .. }) = error else { panic!("{error:?}") };
        assert!(attempt.contains("0x12345678"), "{attempt}");
    }
    assert_eq!(vcpu.msrs(&[SYSENTER_EIP]).unwrap(), [good], "those before it are set");
}
