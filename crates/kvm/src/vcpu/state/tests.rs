use super::*;
use crate::Kvm;
use crate::clock::{Moment, Passage};
use crate::vcpu::tsc::GoOn;
use crate::vm::fixture;
use drystone_hypervisor::{CpuidEntry, Hypervisor, Vcpu, VmConfig};

/// A vCPU of a fresh VM of this host, if that has KVM.
fn vcpu() -> Option<KvmVcpu> {
    let mut vcpu = KvmVcpu::new(0, fixture::vm(&VmConfig::default())?).unwrap();
    vcpu.set_cpuid(&Kvm::open().unwrap().supported_cpuid().unwrap()).unwrap();
    Some(vcpu)
}

fn decoded(vcpu: &KvmVcpu) -> KvmVcpuState {
    save(vcpu).unwrap().decode().unwrap()
}

#[test]
fn what_a_host_lacks_is_named() {
    assert_eq!(lacking(|_| false, false, true).len(), 7);
    let two = lacking(|cap| cap != KVM_CAP_XCRS, true, true);
    assert_eq!(two.len(), 2, "nested virtualisation is never saved");
    assert!(two[0].contains("KVM_CAP_XCRS") && two[1].contains("KVM_CAP_NESTED_STATE"));
    assert!(lacking(|_| true, true, false).is_empty(), "a guest that cannot nest has none");
}

/// Whoever restores a state learns what its host could not give; a save is what this host gives.
#[test]
fn what_a_state_lacks_is_told_where_it_is_restored() {
    let (Some(old), Some(mut new)) = (vcpu(), vcpu()) else { return };
    assert!(new.unsaved().is_empty());
    let mut state = decoded(&old);
    assert_eq!(old.unsaved(), state.missing.names());
    state.missing = Missing { msrs: vec![0x174], parts: vec!["debug registers".into()] };
    restore(&mut new, &Blob::encode(&state).unwrap()).unwrap();
    assert_eq!(new.unsaved(), ["debug registers", "MSR 0x174"]);
    save(&new).unwrap();
    assert_eq!(new.unsaved(), old.unsaved());
    let long = Missing { parts: vec!["x".repeat(Missing::MAX_NAME + 1)], ..Missing::default() };
    let parts = Missing { parts: vec![String::new(); Missing::MAX_PARTS + 1], ..Missing::default() };
    let msrs = Missing { msrs: vec![0; Missing::MAX_MSRS + 1], ..Missing::default() };
    let escape = Missing { parts: vec!["\u{1b}[2J".into()], ..Missing::default() };
    for missing in [long, parts, msrs, escape] {
        state.missing = missing;
        let refused = restore(&mut new, &Blob::encode(&state).unwrap()).unwrap_err().to_string();
        assert!(refused.contains("what it says it lacks is of no save"), "{refused}");
    }
}

#[test]
fn a_guest_can_nest_with_vmx_or_svm() {
    let entry = |leaf, ecx| Cpuid(vec![CpuidEntry { leaf, ecx, ..CpuidEntry::default() }]);
    assert!(can_nest(&entry(1, 1 << 5)) && can_nest(&entry(0x8000_0001, 1 << 2)));
    assert!(!can_nest(&entry(1, !(1 << 5))) && !can_nest(&entry(0x8000_0001, !(1 << 2))));
}

/// Which vector registers the guest uses is its own decision: at power-on XCR0 has but the bit of the x87 unit.
#[test]
fn xcr0_survives_the_way_into_a_fresh_vm() {
    const X87_SSE: u64 = 3;
    let (Some(old), Some(mut new)) = (vcpu(), vcpu()) else { return };
    if !old.vm.fd.check_extension(Cap::Xcrs) {
        return eprintln!("NOT RUN: XCR0: this KVM has no KVM_CAP_XCRS");
    }
    let mut xcrs = old.fd.get_xcrs().unwrap();
    assert_eq!((xcrs.nr_xcrs, xcrs.xcrs[0].xcr, xcrs.xcrs[0].value), (1, 0, 1));
    xcrs.xcrs[0].value = X87_SSE;
    old.fd.set_xcrs(&xcrs).unwrap();
    restore(&mut new, &save(&old).unwrap()).unwrap();
    assert_eq!(new.fd.get_xcrs().unwrap().xcrs[0].value, X87_SSE);
}

/// A rate that is not the host's is set, or the state is refused: a guest never gets a counter that is silently too fast.
#[test]
fn the_rate_of_the_counter_is_kept() {
    let (Some(old), Some(mut new)) = (vcpu(), vcpu()) else { return };
    let Some(own) = tsc::khz(&old) else {
        return eprintln!("NOT RUN: the counter's rate: this KVM has no KVM_CAP_GET_TSC_KHZ");
    };
    let mut state = decoded(&old);
    assert_eq!(state.tsc.khz, Some(own));
    let twice = own * 2;
    state.tsc.khz = Some(twice);
    match restore(&mut new, &Blob::encode(&state).unwrap()) {
        Ok(()) => assert_eq!(tsc::khz(&new), Some(twice)),
        Err(e) => {
            assert!(!new.vm.fd.check_extension(Cap::TscControl), "{e}");
            let said = e.to_string();
            assert!(said.contains(&format!("{twice} kHz")) && said.contains("KVM_CAP_TSC_CONTROL"), "{said}");
        }
    }
}

/// Within one boot of the host, by what it keeps.
#[test]
fn the_offset_of_the_counter_is_kept() {
    let (Some(old), Some(mut new)) = (vcpu(), vcpu()) else { return };
    let offset = 1_u64.wrapping_neg() << 40;
    if !tsc::has_offset(&old.fd)
        || tsc::set_offset(&old, offset).is_err()
        || tsc::read_offset(&old).unwrap() != offset
    {
        return eprintln!("NOT RUN: the counter's offset: this KVM does not keep one");
    }
    let now = Moment::now();
    *lock(&new.vm.passage) = Some(Passage { from: now, to: now, same_boot: true });
    restore(&mut new, &save(&old).unwrap()).unwrap();
    assert_eq!(tsc::read_offset(&new).unwrap(), offset);
}

/// A host that says it keeps offsets and does not: that is told, and the counter's value is kept.
#[test]
fn an_offset_that_the_host_forgets_is_not_saved_and_named() {
    let Some(vcpu) = vcpu() else { return };
    let offset = 1_u64.wrapping_neg() << 40;
    let kept = tsc::has_offset(&vcpu.fd)
        && tsc::set_offset(&vcpu, offset).is_ok()
        && tsc::read_offset(&vcpu).unwrap() == offset;
    let saved = decoded(&vcpu);
    assert_eq!(saved.tsc.offset, kept.then_some(offset));
    let named = saved.missing.parts.iter().any(|part| part.contains("KVM_VCPU_TSC_OFFSET"));
    assert_eq!(named, !kept);
    assert!(kept || saved.msrs.iter().any(|msr| msr.index == tsc::TSC));
}

/// On every host, by what a state says when it is read: which offset, or which value, is to be set.
#[test]
fn a_counter_goes_on_by_its_offset_or_by_its_value() {
    const KHZ: u32 = 1_000_000;
    let (offset, value) = (500, 9_000);
    let saved = |offset| {
        let tsc = SavedTsc { khz: Some(KHZ), offset };
        let state: KvmVcpuState =
            Blob::encode(&KvmVcpuState { tsc, ..KvmVcpuState::default() }).unwrap().decode().unwrap();
        state.tsc
    };
    // In nanoseconds, each of which is a tick.
    let (from, to) = (Moment { realtime: 0, host_tsc: 100 }, Moment { realtime: 70, host_tsc: 20 });
    let passage = |same_boot| Some(Passage { from, to, same_boot });
    let exact = saved(Some(offset));
    assert_eq!(exact.go_on(passage(true), true, Some(value)), GoOn::Offset(offset));
    // It showed 600, and goes on from 670.
    assert_eq!(exact.go_on(passage(false), true, Some(value)), GoOn::Offset(650));
    for (tsc, takes_offsets) in [(exact, false), (saved(None), true)] {
        assert_eq!(tsc.go_on(passage(true), takes_offsets, Some(value)), GoOn::Value(value + 70));
        assert_eq!(tsc.go_on(None, takes_offsets, Some(value)), GoOn::Value(value));
        assert_eq!(tsc.go_on(passage(true), takes_offsets, None), GoOn::AsItIs);
    }
}
