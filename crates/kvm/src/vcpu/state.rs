use super::{KvmVcpu, msrs};
use crate::error::{call, invalid};
use crate::vm::{TSC_DEADLINE, lock};
use drystone_hypervisor::{Error, Msr};
use drystone_state::{Blob, Schema};
use kvm_bindings::{
    Xsave, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
    kvm_xsave,
};
use kvm_ioctls::Cap;
use serde::{Deserialize, Serialize};

/// Words of the classic XSAVE area.
const XSAVE_WORDS: usize = 1024;
/// By how many parts in a million two time stamp counters may differ to count as alike, as in KVM itself.
const TSC_TOLERANCE_PPM: u64 = 250;

/// One vCPU, in KVM's own layouts, which the kernel keeps stable.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KvmVcpuState {
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    /// The XSAVE area in words of 32 bits, as large as the host's KVM wants it.
    xsave: Vec<u32>,
    xcrs: Option<kvm_xcrs>,
    debug_regs: kvm_debugregs,
    lapic: Option<kvm_lapic_state>,
    msrs: Vec<Msr>,
    events: kvm_vcpu_events,
    /// Rate of the guest's time stamp counter.
    tsc_khz: Option<u32>,
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
    let xsave = read_xsave(vcpu)?;
    let xcrs = vm.fd.check_extension(Cap::Xcrs).then(|| fd.get_xcrs().map_err(failed("XCR0")));
    let debug_regs = fd.get_debug_regs().map_err(failed("the debug registers"))?;
    let lapic = vm.config.has_interrupts().then(|| fd.get_lapic().map_err(failed("the local APIC")));
    let tsc_khz = vm.fd.check_extension(Cap::GetTscKhz).then(|| fd.get_tsc_khz().ok()).flatten();
    let state = KvmVcpuState {
        mp_state,
        regs,
        sregs,
        xsave,
        xcrs: xcrs.transpose()?,
        debug_regs,
        lapic: lapic.transpose()?,
        msrs: read_msrs(vcpu)?,
        events: fd.get_vcpu_events().map_err(failed("pending events"))?,
        tsc_khz,
    };
    Blob::encode(&state).map_err(|e| invalid(format!("save vCPU {}", vcpu.id), e.to_string()))
}

/// All of the host's list but those that this vCPU turned out not to have.
fn read_msrs(vcpu: &KvmVcpu) -> Result<Vec<Msr>, Error> {
    let mut readable = lock(&vcpu.readable_msrs);
    let read = msrs::read_available(vcpu, readable.as_ref().unwrap_or(&vcpu.vm.msr_list))?;
    *readable = Some(read.iter().map(|m| m.index).collect());
    Ok(read)
}

/// How many words the XSAVE area has beyond the classic ones.
fn extra_words(vcpu: &KvmVcpu) -> usize {
    let size = vcpu.vm.xsave_size.unwrap_or_default();
    size.saturating_sub(size_of::<kvm_xsave>()).div_ceil(4)
}

fn new_xsave(vcpu: &KvmVcpu) -> Result<Xsave, Error> {
    Xsave::new(extra_words(vcpu))
        .map_err(|e| invalid(vcpu.attempt("allocate the XSAVE area"), format!("{e:?}")))
}

fn read_xsave(vcpu: &KvmVcpu) -> Result<Vec<u32>, Error> {
    let failed = || vcpu.attempt("read the XSAVE area");
    if vcpu.vm.xsave_size.is_none() {
        return Ok(vcpu.fd.get_xsave().map_err(call(failed))?.region.to_vec());
    }
    let mut area = new_xsave(vcpu)?;
    // SAFETY: the area is as large as KVM_CAP_XSAVE2 says that KVM fills it.
    unsafe { vcpu.fd.get_xsave2(&mut area) }.map_err(call(failed))?;
    let classic = area.as_fam_struct_ref().xsave.region;
    Ok([classic.as_slice(), area.as_slice()].concat())
}

fn write_xsave(vcpu: &KvmVcpu, words: &[u32]) -> Result<(), Error> {
    let mut area = new_xsave(vcpu)?;
    let (classic, extra) = words.split_at_checked(XSAVE_WORDS).unwrap_or_default();
    if classic.is_empty() || extra.len() != area.as_slice().len() {
        let why =
            format!("{} words, and this host's has {}", words.len(), XSAVE_WORDS + area.as_slice().len());
        return Err(invalid(vcpu.attempt("set the XSAVE area"), why));
    }
    area.as_mut_slice().copy_from_slice(extra);
    // SAFETY: the length, which this reference could change, is left alone.
    unsafe { area.as_mut_fam_struct() }.xsave.region.copy_from_slice(classic);
    // SAFETY: the area is as large as KVM_CAP_XSAVE2 says that KVM reads it, or, on older hosts, the classic 4 KiB.
    // KVM checks its content.
    unsafe { vcpu.fd.set_xsave2(&area) }.map_err(call(|| vcpu.attempt("set the XSAVE area")))
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
    let failed = |what: &'static str| call(move || format!("set {what} of vCPU {id}"));
    let fd = &vcpu.fd;
    fd.get_mp_state().map_err(failed("the MP state"))?;
    restore_tsc_rate(vcpu, state.tsc_khz)?;
    fd.set_mp_state(state.mp_state).map_err(failed("the MP state"))?;
    fd.set_regs(&state.regs).map_err(failed("the registers"))?;
    fd.set_sregs(&state.sregs).map_err(failed("the control registers"))?;
    write_xsave(vcpu, &state.xsave)?;
    if let Some(xcrs) = &state.xcrs {
        fd.set_xcrs(xcrs).map_err(failed("XCR0"))?;
    }
    fd.set_debug_regs(&state.debug_regs).map_err(failed("the debug registers"))?;
    if let Some(lapic) = &state.lapic {
        fd.set_lapic(lapic).map_err(failed("the local APIC"))?;
    }
    let (last, first): (Vec<_>, Vec<_>) = state.msrs.iter().partition(|m| m.index == TSC_DEADLINE);
    msrs::restore(vcpu, &first)?;
    msrs::restore(vcpu, &last)?;
    fd.set_vcpu_events(&state.events).map_err(failed("pending events"))?;
    vcpu.sync_cr8(state.sregs.cr8);
    Ok(())
}

fn restore_tsc_rate(vcpu: &KvmVcpu, khz: Option<u32>) -> Result<(), Error> {
    let (Some(wanted), Ok(own)) = (khz, vcpu.fd.get_tsc_khz()) else { return Ok(()) };
    let apart = u64::from(wanted.abs_diff(own)) * 1_000_000;
    if apart <= u64::from(own) * TSC_TOLERANCE_PPM {
        return Ok(());
    }
    let attempt = || vcpu.attempt(&format!("set the TSC rate of {wanted} kHz"));
    if !vcpu.vm.fd.check_extension(Cap::TscControl) {
        return Err(invalid(attempt(), format!("this host's TSC runs at {own} kHz, and cannot be scaled")));
    }
    vcpu.fd.set_tsc_khz(wanted).map_err(call(attempt))
}
