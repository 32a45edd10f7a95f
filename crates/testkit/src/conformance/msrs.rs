use crate::guest::{self, FAULT_PORT, MsrOp, VALUE_PORT};
use crate::{Access, Backend, IoLog, TinyVm};
use drystone_hypervisor::{Exit, MsrAccess, MsrAction, MsrRange, VmConfig};

/// Registers that only hold a value.
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
const LSTAR: u32 = 0xc000_0082;
/// A register that nobody knows.
const UNKNOWN: u32 = 0x1234_5678;

const fn range(first: u32, last: u32, access: MsrAccess, action: MsrAction) -> MsrRange {
    MsrRange { first, last, access, action }
}

/// What a guest of [`guest::msrs`] does, with the registers that the VMM has.
fn accesses(backend: &Backend, config: &VmConfig, ops: &[MsrOp], msrs: &[(u32, u64)]) -> Vec<Access> {
    let mut tiny = TinyVm::new(backend, config.clone(), guest::msrs(ops));
    let mut io = IoLog::new();
    io.msrs.extend(msrs.iter().copied());
    assert_eq!(tiny.run_through_io(&mut io), Exit::Halted);
    io.take()
}

fn value(value: u64) -> [Access; 2] {
    [value as u32, (value >> 32) as u32].map(|half| Access::Out(VALUE_PORT, half.to_le_bytes().into()))
}

fn fault() -> Access {
    Access::Out(FAULT_PORT, vec![13])
}

/// Without a filter the hypervisor has its registers, and the VMM is asked nothing.
pub fn msrs_are_the_hypervisors(backend: &Backend) {
    let ops = [MsrOp::Write(LSTAR, 0xffff_8000_1234_5678), MsrOp::Read(LSTAR), MsrOp::Read(UNKNOWN)];
    let seen = accesses(backend, &VmConfig::bare(), &ops, &[(LSTAR, 1), (UNKNOWN, 2)]);
    let [low, high] = value(0xffff_8000_1234_5678);
    let [zero, _] = value(0);
    assert_eq!(seen, [low, high, fault(), zero.clone(), zero]);
}

/// An access that is handed over is answered by the VMM, in the direction that the filter names; what the VMM refuses
/// is a fault.
pub fn msrs_that_are_handed_over_are_the_vmms(backend: &Backend) {
    let mut config = VmConfig::bare();
    config.msrs.ranges = vec![
        range(SYSENTER_EIP, SYSENTER_EIP, MsrAccess::Read, MsrAction::HandOver),
        range(LSTAR, LSTAR, MsrAccess::Both, MsrAction::HandOver),
    ];
    let answer = 0x1122_3344_5566_7788;
    let ops = [
        MsrOp::Write(SYSENTER_EIP, 5),
        MsrOp::Read(SYSENTER_EIP),
        MsrOp::Write(LSTAR, answer),
        MsrOp::Read(LSTAR),
        MsrOp::Read(UNKNOWN),
    ];
    let seen = accesses(backend, &config, &ops, &[(SYSENTER_EIP, answer), (UNKNOWN, 1)]);
    let [low, high] = value(answer);
    let [zero, _] = value(0);
    let expected = [
        Access::ReadMsr(SYSENTER_EIP, Some(answer)),
        low,
        high,
        Access::WriteMsr(LSTAR, answer, false),
        fault(),
        Access::ReadMsr(LSTAR, None),
        fault(),
        zero.clone(),
        zero.clone(),
        fault(),
        zero.clone(),
        zero,
    ];
    assert_eq!(seen, expected);
}

/// A register that is refused faults without a question, beside one that is handed over and one that is left alone; of
/// two ranges the first one counts.
pub fn msrs_that_are_refused_fault(backend: &Backend) {
    for hand_over in [false, true] {
        let mut config = VmConfig::bare();
        config.msrs.ranges = vec![
            range(SYSENTER_EIP, SYSENTER_EIP, MsrAccess::Write, MsrAction::Refuse),
            range(LSTAR, LSTAR, MsrAccess::Both, MsrAction::Refuse),
        ];
        if hand_over {
            let both = range(SYSENTER_ESP, SYSENTER_EIP, MsrAccess::Both, MsrAction::HandOver);
            config.msrs.ranges.push(both);
        }
        let ops = [
            MsrOp::Write(SYSENTER_EIP, 5),
            MsrOp::Write(SYSENTER_ESP, 6),
            MsrOp::Read(SYSENTER_ESP),
            MsrOp::Read(LSTAR),
        ];
        let seen = accesses(backend, &config, &ops, &[(SYSENTER_ESP, 1), (SYSENTER_EIP, 2), (LSTAR, 3)]);
        let ([six, zero], mut expected) = (value(6), vec![fault()]);
        if hand_over {
            expected.push(Access::WriteMsr(SYSENTER_ESP, 6, true));
            expected.push(Access::ReadMsr(SYSENTER_ESP, Some(6)));
        }
        expected.extend([six, zero.clone(), fault(), zero.clone(), zero]);
        assert_eq!(seen, expected, "{config:?}");
    }
}

/// Registers that the hypervisor does not know can be handed over without naming them.
pub fn unknown_msrs_can_be_handed_over(backend: &Backend) {
    let mut config = VmConfig::bare();
    config.msrs.hand_over_unknown = true;
    let ops =
        [MsrOp::Write(LSTAR, 1), MsrOp::Read(UNKNOWN), MsrOp::Write(UNKNOWN, 9), MsrOp::Read(UNKNOWN + 1)];
    let seen = accesses(backend, &config, &ops, &[(UNKNOWN, 7), (LSTAR, 5)]);
    let ([seven, zero], none) = (value(7), Access::ReadMsr(UNKNOWN + 1, None));
    let (read, write) = (Access::ReadMsr(UNKNOWN, Some(7)), Access::WriteMsr(UNKNOWN, 9, true));
    assert_eq!(seen, [read, seven, zero.clone(), write, none, fault(), zero.clone(), zero]);
}
