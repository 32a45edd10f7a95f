use super::tsc::{self, SavedTsc};
use super::{KvmVcpu, msrs, xsave};
use crate::error::{call, invalid};
use crate::vm::{TSC_DEADLINE, lock};
use drystone_hypervisor::{Cpuid, Error, Msr};
use drystone_state::{Blob, Schema};
use kvm_bindings::{
    KVM_CAP_DEBUGREGS, KVM_CAP_GET_TSC_KHZ, KVM_CAP_VCPU_EVENTS, KVM_CAP_XCRS, KVM_CAP_XSAVE2, kvm_debugregs,
    kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::Cap;
use serde::{Deserialize, Serialize};

/// One vCPU, in KVM's own layouts, which the kernel keeps stable.
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(Default))]
#[serde(deny_unknown_fields)]
struct KvmVcpuState {
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    /// The XSAVE area in words of 32 bits, as large as the host's KVM gives it.
    xsave: Vec<u32>,
    xcrs: Option<kvm_xcrs>,
    debug_regs: Option<kvm_debugregs>,
    lapic: Option<kvm_lapic_state>,
    msrs: Vec<Msr>,
    events: Option<kvm_vcpu_events>,
    tsc: SavedTsc,
    /// What this state lacks: MSRs of the host's list that could not be read, and what the host's KVM cannot give.
    missing: Missing,
}

/// Names what a saved state lacks, so that nothing is left out in silence.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Missing {
    msrs: Vec<u32>,
    parts: Vec<String>,
}

impl Missing {
    /// More MSRs than any KVM lists, more parts than a state has, and longer names than they have, or such as no terminal should
    /// be shown, are of no save.
    const MAX_MSRS: usize = 4096;
    const MAX_PARTS: usize = 32;
    const MAX_NAME: usize = 128;

    /// For people.
    pub(super) fn names(&self) -> Vec<String> {
        let msrs = self.msrs.iter().map(|index| format!("MSR {index:#x}"));
        self.parts.iter().cloned().chain(msrs).collect()
    }

    fn is_sensible(&self) -> bool {
        self.msrs.len() <= Self::MAX_MSRS
            && self.parts.len() <= Self::MAX_PARTS
            && self.parts.iter().all(|name| name.len() <= Self::MAX_NAME && !name.contains(char::is_control))
    }
}

impl Schema for KvmVcpuState {
    const KIND: &'static str = "kvm-vcpu";
    const VERSION: u32 = 1;
}

/// The order matters. Reading the MP state first makes KVM take in INIT and SIPI signals that are under way, which
/// changes the rest; the events come last, as reading the others may change them.
pub(super) fn save(vcpu: &KvmVcpu) -> Result<Blob, Error> {
    let (fd, vm) = (&vcpu.fd, &vcpu.vm);
    let failed = |what: &'static str| call(move || format!("read {what} of vCPU {}", vcpu.id));
    let mp_state = fd.get_mp_state().map_err(failed("the MP state"))?;
    let regs = fd.get_regs().map_err(failed("the registers"))?;
    let sregs = fd.get_sregs().map_err(failed("the control registers"))?;
    let xsave = xsave::read(vcpu)?;
    let has = |cap| vm.fd.check_extension(cap);
    let xcrs = has(Cap::Xcrs).then(|| fd.get_xcrs().map_err(failed("XCR0")));
    let debug_regs = has(Cap::Debugregs).then(|| fd.get_debug_regs().map_err(failed("the debug registers")));
    let lapic = vm.config.has_interrupts().then(|| fd.get_lapic().map_err(failed("the local APIC")));
    let events = has(Cap::VcpuEvents).then(|| fd.get_vcpu_events().map_err(failed("pending events")));
    let msrs = read_msrs(vcpu)?;
    let unread = vm.msr_list.iter().filter(|index| !msrs.iter().any(|m| m.index == **index));
    let missing = Missing { msrs: unread.copied().collect(), parts: missing_parts(vcpu) };
    lock(&vcpu.missing).clone_from(&missing);
    let state = KvmVcpuState {
        mp_state,
        regs,
        sregs,
        xsave,
        xcrs: xcrs.transpose()?,
        debug_regs: debug_regs.transpose()?,
        lapic: lapic.transpose()?,
        msrs,
        events: events.transpose()?,
        tsc: tsc::save(vcpu)?,
        missing,
    };
    Blob::encode(&state).map_err(|e| invalid(format!("save vCPU {}", vcpu.id), e.to_string()))
}

/// What cannot be saved of a vCPU on this host.
fn missing_parts(vcpu: &KvmVcpu) -> Vec<String> {
    let has = |cap: u32| vcpu.vm.fd.check_extension_raw(cap.into()) > 0;
    lacking(has, tsc::keeps_offset(vcpu), vcpu.can_nest)
}

/// Whether a guest that sees `cpuid` has VMX or SVM (Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E).
pub(super) fn can_nest(cpuid: &Cpuid) -> bool {
    const VMX: u32 = 1 << 5;
    const SVM: u32 = 1 << 2;
    let has = |leaf, bit| cpuid.get(leaf, 0).is_some_and(|entry| entry.ecx & bit != 0);
    has(1, VMX) || has(0x8000_0001, SVM)
}

/// What a KVM with the capabilities of `has` cannot save of a vCPU, by the names in its document.
fn lacking(has: impl Fn(u32) -> bool, keeps_tsc_offset: bool, can_nest: bool) -> Vec<String> {
    let parts = [
        (KVM_CAP_XSAVE2, "vector registers beyond 4 KiB (KVM_CAP_XSAVE2)"),
        (KVM_CAP_XCRS, "XCR0 (KVM_CAP_XCRS)"),
        (KVM_CAP_DEBUGREGS, "debug registers (KVM_CAP_DEBUGREGS)"),
        (KVM_CAP_VCPU_EVENTS, "exceptions and interrupts on their way in (KVM_CAP_VCPU_EVENTS)"),
        (KVM_CAP_GET_TSC_KHZ, "the rate of the time stamp counter (KVM_CAP_GET_TSC_KHZ)"),
    ];
    let absent = parts.into_iter().filter(|(cap, _)| !has(*cap)).map(|(_, name)| name);
    // This crate never saves nested state, also where the host could.
    let nested = can_nest.then_some("nested virtualisation (KVM_CAP_NESTED_STATE)");
    let offset = "the exact offset of the time stamp counter (KVM_VCPU_TSC_OFFSET)";
    let offset = (!keeps_tsc_offset).then_some(offset);
    absent.chain(nested).chain(offset).map(str::to_owned).collect()
}

/// All of the host's list but those that this vCPU turned out not to have.
fn read_msrs(vcpu: &KvmVcpu) -> Result<Vec<Msr>, Error> {
    let mut readable = lock(&vcpu.readable_msrs);
    let read = msrs::read_available(vcpu, readable.as_ref().unwrap_or(&vcpu.vm.msr_list))?;
    *readable = Some(read.iter().map(|m| m.index).collect());
    Ok(read)
}

/// The order matters:
/// - The MP state is read first: that clears INIT and SIPI signals that are under way to the old state.
/// - Setting the general registers forgets a pending exception, so events come after.
/// - Control registers hold the local APIC's base and mode, so they come before its registers.
/// - The TSC deadline only takes hold in a local APIC whose timer is in that mode, and needs the guest's TSC.
pub(super) fn restore(vcpu: &mut KvmVcpu, blob: &Blob) -> Result<(), Error> {
    let id = vcpu.id;
    let refuse = |why: String| invalid(format!("restore vCPU {id}"), why);
    let state: KvmVcpuState = blob.decode().map_err(|e| refuse(e.to_string()))?;
    if state.lapic.is_some() != vcpu.vm.config.has_interrupts() {
        return Err(refuse("it is of a VM with other interrupt controllers".into()));
    }
    if let Some(msr) = state.msrs.iter().find(|m| !vcpu.vm.msr_list.contains(&m.index)) {
        return Err(refuse(format!("this host's KVM has no MSR {:#x}", msr.index)));
    }
    check(&state, &vcpu.vm.fd).map_err(refuse)?;
    tsc::restore_rate(vcpu, &state.tsc)?;
    let failed = |what: &'static str| call(move || format!("set {what} of vCPU {id}"));
    let fd = &vcpu.fd;
    fd.get_mp_state().map_err(failed("the MP state"))?;
    fd.set_mp_state(state.mp_state).map_err(failed("the MP state"))?;
    fd.set_regs(&state.regs).map_err(failed("the registers"))?;
    fd.set_sregs(&state.sregs).map_err(failed("the control registers"))?;
    xsave::write(vcpu, &state.xsave)?;
    if let Some(xcrs) = &state.xcrs {
        fd.set_xcrs(xcrs).map_err(failed("XCR0"))?;
    }
    if let Some(debug_regs) = &state.debug_regs {
        fd.set_debug_regs(debug_regs).map_err(failed("the debug registers"))?;
    }
    if let Some(lapic) = &state.lapic {
        fd.set_lapic(lapic).map_err(failed("the local APIC"))?;
    }
    let (timers, others): (Vec<_>, Vec<_>) =
        state.msrs.iter().partition(|m| [tsc::TSC, TSC_DEADLINE].contains(&m.index));
    msrs::restore(vcpu, &others)?;
    tsc::restore(vcpu, &state.tsc, timers.iter().find(|m| m.index == tsc::TSC).map(|m| m.value))?;
    let deadline: Vec<_> = timers.into_iter().filter(|m| m.index == TSC_DEADLINE).collect();
    msrs::restore(vcpu, &deadline)?;
    if let Some(events) = &state.events {
        fd.set_vcpu_events(events).map_err(failed("pending events"))?;
    }
    vcpu.sync_cr8(state.sregs.cr8);
    *lock(&vcpu.missing) = state.missing;
    Ok(())
}

/// What no save on a host like this one can have given, or what this host has no place for.
fn check(state: &KvmVcpuState, vm: &kvm_ioctls::VmFd) -> Result<(), String> {
    let mut seen = std::collections::BTreeSet::new();
    if let Some(twice) = state.msrs.iter().find(|m| !seen.insert(m.index)) {
        return Err(format!("it has MSR {:#x} twice", twice.index));
    }
    if !state.missing.is_sensible() {
        return Err("what it says it lacks is of no save".into());
    }
    let parts = [
        (state.xcrs.is_some(), Cap::Xcrs, "XCR0 (KVM_CAP_XCRS)"),
        (state.debug_regs.is_some(), Cap::Debugregs, "debug registers (KVM_CAP_DEBUGREGS)"),
        (state.events.is_some(), Cap::VcpuEvents, "pending events (KVM_CAP_VCPU_EVENTS)"),
    ];
    let lacking = parts.iter().find(|&&(saved, cap, _)| saved && !vm.check_extension(cap));
    lacking.map_or(Ok(()), |(_, _, name)| Err(format!("this host's KVM has no {name}")))
}

#[cfg(test)]
mod tests;
