//! Everything that a guest could notice, to a versioned blob and back.
use crate::vm::{Inner, call};
use drystone_hypervisor::Error;
use drystone_state::{Blob, Schema};
use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, Msrs, Xsave, kvm_clock_data,
    kvm_debugregs, kvm_fpu, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pit_state2,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Cap, VcpuFd};
use serde::{Deserialize, Serialize};

/// IA32_TSC_DEADLINE: arms the local APIC's timer, so it is set once the APIC is in the right mode.
const TSC_DEADLINE: u32 = 0x6e0;
/// The legacy XSAVE area of KVM_GET_XSAVE; KVM_CAP_XSAVE2 tells of more.
const XSAVE_LEGACY: usize = 4096;

/// A vCPU but for its CPUID, which is configuration.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VcpuState {
    regs: kvm_regs,
    sregs: kvm_sregs,
    /// XSAVE area as 32-bit words, or nothing on a host without XSAVE.
    xsave: Vec<u32>,
    xcrs: Option<kvm_xcrs>,
    /// `kvm_fpu` on a host without XSAVE: FCW and so on are not exposed by name, so its bytes.
    fpu: Option<FpuState>,
    lapic: Option<kvm_lapic_state>,
    /// Number and value of each register on the host's list that can be read.
    msrs: Vec<(u32, u64)>,
    events: kvm_vcpu_events,
    debug: kvm_debugregs,
    mp_state: Option<kvm_mp_state>,
}

impl Schema for VcpuState {
    const KIND: &'static str = "kvm-vcpu";
    const VERSION: u32 = 1;
}

/// The FXSAVE state (`struct kvm_fpu`).
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FpuState {
    fpr: [[u8; 16]; 8],
    fcw: u16,
    fsw: u16,
    ftwx: u8,
    last_opcode: u16,
    last_ip: u64,
    last_dp: u64,
    xmm: [[u8; 16]; 16],
    mxcsr: u32,
}

pub(crate) fn save_vcpu(fd: &VcpuFd, id: u32, vm: &Inner) -> Result<Blob, Error> {
    let about = |what: &str| call(format!("read {what} of vCPU {id}"));
    // MP state first: reading it makes KVM process pending INIT and SIPI events, which changes the rest.
    let mp_state = optional(vm.config.irqchip, || fd.get_mp_state().map_err(about("the MP state")))?;
    let has_xsave = vm.kvm.check_extension(Cap::Xsave);
    let state = VcpuState {
        regs: fd.get_regs().map_err(about("the registers"))?,
        sregs: fd.get_sregs().map_err(about("the segment registers"))?,
        xsave: if has_xsave { get_xsave(fd, id, vm)? } else { Vec::new() },
        xcrs: optional(vm.kvm.check_extension(Cap::Xcrs), || fd.get_xcrs().map_err(about("the XCRs")))?,
        fpu: optional(!has_xsave, || fd.get_fpu().map(fpu_state).map_err(about("the FPU")))?,
        lapic: optional(vm.config.irqchip, || fd.get_lapic().map_err(about("the local APIC")))?,
        msrs: get_msrs(fd, id, vm)?,
        events: fd.get_vcpu_events().map_err(about("the pending events"))?,
        debug: fd.get_debug_regs().map_err(about("the debug registers"))?,
        mp_state,
    };
    encode(&state)
}

/// The order matters: MSRs and sregs (which hold the APIC's base and mode) before the local APIC, the TSC deadline
/// after it, pending events and the MP state last.
pub(crate) fn restore_vcpu(fd: &VcpuFd, id: u32, vm: &Inner, blob: &Blob) -> Result<(), Error> {
    let state: VcpuState = decode(blob)?;
    let about = |what: &str| call(format!("set {what} of vCPU {id}"));
    fd.set_regs(&state.regs).map_err(about("the registers"))?;
    fd.set_sregs(&state.sregs).map_err(about("the segment registers"))?;
    if let Some(xcrs) = &state.xcrs {
        fd.set_xcrs(xcrs).map_err(about("the XCRs"))?;
    }
    if !state.xsave.is_empty() {
        set_xsave(fd, id, vm, &state.xsave)?;
    }
    if let Some(fpu) = &state.fpu {
        fd.set_fpu(&kvm_fpu_from(fpu)).map_err(about("the FPU"))?;
    }
    let (deadline, others): (Vec<_>, Vec<_>) = state.msrs.into_iter().partition(|(n, _)| *n == TSC_DEADLINE);
    set_msrs(fd, id, &others)?;
    if let Some(lapic) = &state.lapic {
        fd.set_lapic(lapic).map_err(about("the local APIC"))?;
    }
    set_msrs(fd, id, &deadline)?;
    fd.set_debug_regs(&state.debug).map_err(about("the debug registers"))?;
    fd.set_vcpu_events(&state.events).map_err(about("the pending events"))?;
    if let Some(mp_state) = state.mp_state {
        fd.set_mp_state(mp_state).map_err(about("the MP state"))?;
    }
    Ok(())
}

/// How long the XSAVE area is on this host, in bytes.
fn xsave_len(vm: &Inner) -> usize {
    usize::try_from(vm.fd.check_extension_int(Cap::Xsave2)).unwrap_or(0).max(XSAVE_LEGACY)
}

fn new_xsave(vm: &Inner, attempt: &str) -> Result<Xsave, Error> {
    let extra = (xsave_len(vm) - XSAVE_LEGACY).div_ceil(size_of::<u32>());
    Xsave::new(extra).map_err(|e| Error::Invalid { attempt: attempt.into(), why: format!("{e:?}") })
}

fn get_xsave(fd: &VcpuFd, id: u32, vm: &Inner) -> Result<Vec<u32>, Error> {
    let attempt = format!("read the XSAVE area of vCPU {id}");
    if vm.fd.check_extension_int(Cap::Xsave2) <= 0 {
        return fd.get_xsave().map(|x| x.region.to_vec()).map_err(call(attempt));
    }
    let mut xsave = new_xsave(vm, &attempt)?;
    // SAFETY: allocated with the length that KVM_CAP_XSAVE2 asks for.
    unsafe { fd.get_xsave2(&mut xsave) }.map_err(call(attempt))?;
    let mut words = xsave.as_fam_struct_ref().xsave.region.to_vec();
    words.extend_from_slice(xsave.as_slice());
    Ok(words)
}

fn set_xsave(fd: &VcpuFd, id: u32, vm: &Inner, words: &[u32]) -> Result<(), Error> {
    let attempt = format!("set the XSAVE area of vCPU {id}");
    let bad = || Error::Invalid {
        attempt: attempt.clone(),
        why: format!("it has {} bytes, this host's is of {}", words.len() * 4, xsave_len(vm)),
    };
    let (legacy, extra) = words.split_at_checked(XSAVE_LEGACY / 4).ok_or_else(bad)?;
    if vm.fd.check_extension_int(Cap::Xsave2) <= 0 {
        let region = legacy.try_into().ok().filter(|_| extra.is_empty()).ok_or_else(bad)?;
        let xsave = kvm_xsave { region, ..Default::default() };
        // SAFETY: without XSAVE2 the area is exactly this struct.
        return unsafe { fd.set_xsave(&xsave) }.map_err(call(attempt));
    }
    let mut xsave = new_xsave(vm, &attempt)?;
    if xsave.as_slice().len() != extra.len() {
        return Err(bad());
    }
    // SAFETY: the length field of the header is not touched.
    unsafe { xsave.as_mut_fam_struct() }.xsave.region = legacy.try_into().map_err(|_| bad())?;
    xsave.as_mut_slice().copy_from_slice(extra);
    // SAFETY: allocated with the length that KVM_CAP_XSAVE2 asks for.
    unsafe { fd.set_xsave2(&xsave) }.map_err(call(attempt))
}

fn fpu_state(f: kvm_fpu) -> FpuState {
    FpuState {
        fpr: f.fpr,
        fcw: f.fcw,
        fsw: f.fsw,
        ftwx: f.ftwx,
        last_opcode: f.last_opcode,
        last_ip: f.last_ip,
        last_dp: f.last_dp,
        xmm: f.xmm,
        mxcsr: f.mxcsr,
    }
}

fn kvm_fpu_from(f: &FpuState) -> kvm_fpu {
    kvm_fpu {
        fpr: f.fpr,
        fcw: f.fcw,
        fsw: f.fsw,
        ftwx: f.ftwx,
        last_opcode: f.last_opcode,
        last_ip: f.last_ip,
        last_dp: f.last_dp,
        xmm: f.xmm,
        mxcsr: f.mxcsr,
        ..Default::default()
    }
}

/// Reads the host's list of registers. KVM stops at the first that it cannot read, which is left out: the list is
/// of the host's kernel, and some on it depend on the vCPU's CPUID.
fn get_msrs(fd: &VcpuFd, id: u32, vm: &Inner) -> Result<Vec<(u32, u64)>, Error> {
    let list = vm.kvm.get_msr_index_list().map_err(call("read the list of MSRs"))?;
    let mut wanted: Vec<u32> = list.as_slice().to_vec();
    if !wanted.contains(&TSC_DEADLINE) {
        wanted.push(TSC_DEADLINE);
    }
    let mut values = Vec::with_capacity(wanted.len());
    let mut rest = wanted.as_slice();
    while !rest.is_empty() {
        let entries: Vec<_> =
            rest.iter().map(|n| kvm_msr_entry { index: *n, ..Default::default() }).collect();
        let mut msrs = msr_list(&entries, id)?;
        let count = fd.get_msrs(&mut msrs).map_err(call(format!("read MSRs of vCPU {id}")))?;
        values.extend(msrs.as_slice().iter().take(count).map(|m| (m.index, m.data)));
        rest = rest.get(count.saturating_add(1)..).unwrap_or_default();
    }
    Ok(values)
}

/// Sets what [`get_msrs`] read. A register that refuses the very value it was read with (read-only, or not offered by the
/// CPUID) already has it; any other is an error that names it.
fn set_msrs(fd: &VcpuFd, id: u32, values: &[(u32, u64)]) -> Result<(), Error> {
    let entries: Vec<_> = values
        .iter()
        .map(|(index, data)| kvm_msr_entry { index: *index, data: *data, ..Default::default() })
        .collect();
    let mut rest = entries.as_slice();
    while !rest.is_empty() {
        let count = fd.set_msrs(&msr_list(rest, id)?).map_err(call(format!("set MSRs of vCPU {id}")))?;
        let Some(refused) = rest.get(count) else { break };
        let mut current = msr_list(std::slice::from_ref(refused), id)?;
        let read = fd.get_msrs(&mut current).unwrap_or(0);
        if current.as_slice().first().filter(|_| read == 1).is_none_or(|now| now.data != refused.data) {
            let attempt = format!("set MSR {:#x} of vCPU {id} to {:#x}", refused.index, refused.data);
            return Err(Error::Invalid { attempt, why: "the host refuses it".into() });
        }
        rest = rest.get(count.saturating_add(1)..).unwrap_or_default();
    }
    Ok(())
}

fn msr_list(entries: &[kvm_msr_entry], id: u32) -> Result<Msrs, Error> {
    let attempt = || format!("list {} MSRs of vCPU {id}", entries.len());
    Msrs::from_entries(entries).map_err(|e| Error::Invalid { attempt: attempt(), why: format!("{e:?}") })
}

/// What vCPUs share.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VmState {
    /// Both PICs and the I/O APIC, or nothing.
    irqchips: Vec<kvm_irqchip>,
    pit: Option<kvm_pit_state2>,
    clock: kvm_clock_data,
}

impl Schema for VmState {
    const KIND: &'static str = "kvm-vm";
    const VERSION: u32 = 1;
}

pub(crate) fn save_vm(vm: &Inner) -> Result<Blob, Error> {
    let mut irqchips = Vec::new();
    if vm.config.irqchip {
        for chip_id in [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC] {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            vm.fd.get_irqchip(&mut chip).map_err(call("read an interrupt controller"))?;
            irqchips.push(chip);
        }
    }
    let pit = optional(vm.config.pit, || vm.fd.get_pit2().map_err(call("read the timer")))?;
    let clock = vm.fd.get_clock().map_err(call("read the clock"))?;
    encode(&VmState { irqchips, pit, clock })
}

pub(crate) fn restore_vm(vm: &Inner, blob: &Blob) -> Result<(), Error> {
    let state: VmState = decode(blob)?;
    for chip in &state.irqchips {
        vm.fd.set_irqchip(chip).map_err(call("set an interrupt controller"))?;
    }
    if let Some(pit) = &state.pit {
        vm.fd.set_pit2(pit).map_err(call("set the timer"))?;
    }
    // Only the time is set; what KVM said about its quality is not (KVM API, 4.31).
    let clock = kvm_clock_data { clock: state.clock.clock, ..Default::default() };
    vm.fd.set_clock(&clock).map_err(call("set the clock"))
}

fn optional<T>(wanted: bool, get: impl FnOnce() -> Result<T, Error>) -> Result<Option<T>, Error> {
    wanted.then(get).transpose()
}

fn encode<S: Schema>(state: &S) -> Result<Blob, Error> {
    Blob::encode(state)
        .map_err(|e| Error::Invalid { attempt: format!("save a {}", S::KIND), why: e.to_string() })
}

fn decode<S: Schema>(blob: &Blob) -> Result<S, Error> {
    blob.decode()
        .map_err(|e| Error::Invalid { attempt: format!("restore a {}", S::KIND), why: e.to_string() })
}
