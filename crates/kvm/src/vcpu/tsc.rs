//! The guest's time stamp counter: its rate, and what is added to the host's counter to have it.
//!
//! All vCPUs' counters must agree to the tick after a restore, so what is kept is the exact offset of each (kernel
//! document virt/kvm/devices/vcpu, KVM_VCPU_TSC_OFFSET, since 5.16). Where the host has none, or scales the counter, the
//! value is kept instead, and KVM makes counters that are set within a second of each other agree.

use super::{KvmVcpu, msrs};
use crate::clock::Passage;
use crate::error::{call, invalid};
use drystone_hypervisor::{Error, Msr};
use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, kvm_device_attr};
use kvm_ioctls::{Cap, VcpuFd};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::AsRawFd;

/// IA32_TIME_STAMP_COUNTER.
pub(super) const TSC: u32 = 0x10;
/// By how many parts in a million two time stamp counters may differ to count as alike, as in KVM itself.
const TOLERANCE_PPM: u64 = 250;
/// `_IOW(KVMIO, 0xe1, struct kvm_device_attr)`, and the two after it.
const SET_DEVICE_ATTR: libc::c_ulong = 0x4018_aee1;
const GET_DEVICE_ATTR: libc::c_ulong = 0x4018_aee2;
const HAS_DEVICE_ATTR: libc::c_ulong = 0x4018_aee3;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[cfg_attr(test, derive(Default))]
#[serde(deny_unknown_fields)]
pub(super) struct SavedTsc {
    /// Ticks a millisecond; `None` if the host does not say (no KVM_CAP_GET_TSC_KHZ).
    pub(super) khz: Option<u32>,
    /// What is added to the host's counter; `None` if the host does not say, or the counter is scaled.
    pub(super) offset: Option<u64>,
}

/// One of KVM's three calls on the attribute; `value` is where it reads or writes 8 bytes, if it does.
fn offset_call(vcpu: &VcpuFd, request: libc::c_ulong, value: &mut u64) -> io::Result<()> {
    let attr = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: value as *mut u64 as u64,
        flags: 0,
    };
    // SAFETY: KVM reads `attr`, and reads or writes the 8 bytes of `value`; both outlive the call.
    match unsafe { libc::ioctl(vcpu.as_raw_fd(), request as libc::Ioctl, &raw const attr) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the host says that it keeps offsets.
pub(super) fn has_offset(vcpu: &VcpuFd) -> bool {
    offset_call(vcpu, HAS_DEVICE_ATTR, &mut 0).is_ok()
}

pub(super) fn khz(vcpu: &KvmVcpu) -> Option<u32> {
    if vcpu.vm.fd.check_extension(Cap::GetTscKhz) { vcpu.fd.get_tsc_khz().ok() } else { None }
}

pub(super) fn read_offset(vcpu: &KvmVcpu) -> Result<u64, Error> {
    let mut offset = 0;
    let failed = |cause| Error::Call { attempt: vcpu.attempt("read the TSC offset"), cause };
    offset_call(&vcpu.fd, GET_DEVICE_ATTR, &mut offset).map_err(failed)?;
    Ok(offset)
}

pub(super) fn set_offset(vcpu: &KvmVcpu, mut offset: u64) -> Result<(), Error> {
    let failed = |cause| Error::Call { attempt: vcpu.attempt("set the TSC offset"), cause };
    offset_call(&vcpu.fd, SET_DEVICE_ATTR, &mut offset).map_err(failed)
}

/// Whether the host keeps the offset of this vCPU's counter. There are KVMs that take any and give 0 back. A counter that began when its
/// vCPU was made has another one, so 0 is not believed.
pub(super) fn keeps_offset(vcpu: &KvmVcpu) -> bool {
    vcpu.has_tsc_offset && read_offset(vcpu).is_ok_and(|offset| offset != 0)
}

pub(super) fn save(vcpu: &KvmVcpu) -> Result<SavedTsc, Error> {
    let exact = keeps_offset(vcpu) && !vcpu.tsc_is_scaled;
    let offset = if exact { Some(read_offset(vcpu)?) } else { None };
    Ok(SavedTsc { khz: khz(vcpu), offset })
}

/// Before anything that depends on the counter.
pub(super) fn restore_rate(vcpu: &mut KvmVcpu, saved: &SavedTsc) -> Result<(), Error> {
    let (Some(wanted), Some(own)) = (saved.khz, khz(vcpu)) else { return Ok(()) };
    let apart = u64::from(wanted.abs_diff(own)) * 1_000_000;
    if apart <= u64::from(own) * TOLERANCE_PPM {
        return Ok(());
    }
    let attempt = || vcpu.attempt(&format!("set the TSC rate of {wanted} kHz"));
    if !vcpu.vm.fd.check_extension(Cap::TscControl) {
        let why = format!(
            "this host's TSC runs at {own} kHz, and cannot be scaled (it has no KVM_CAP_TSC_CONTROL)"
        );
        return Err(invalid(attempt(), why));
    }
    vcpu.fd.set_tsc_khz(wanted).map_err(call(attempt))?;
    vcpu.tsc_is_scaled = true;
    Ok(())
}

/// How a counter is made to go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum GoOn {
    /// With this offset to the host's.
    Offset(u64),
    /// From this value.
    Value(u64),
    /// As it is.
    AsItIs,
}

impl SavedTsc {
    /// After `passage`, if that is known, on a vCPU that `takes_offsets` or not. `value` is what the counter showed when it was saved.
    pub(super) fn go_on(&self, passage: Option<Passage>, takes_offsets: bool, value: Option<u64>) -> GoOn {
        let khz = self.khz.unwrap_or(0);
        match (self.offset, passage, value) {
            (Some(offset), Some(passage), _) if takes_offsets => {
                GoOn::Offset(passage.tsc_offset(offset, khz))
            }
            (_, passage, Some(value)) => GoOn::Value(value.wrapping_add(passage.map_or(0, |p| p.ticks(khz)))),
            _ => GoOn::AsItIs,
        }
    }
}

/// After all other registers: some of them change the counter. `value` is what it showed when it was saved.
pub(super) fn restore(vcpu: &KvmVcpu, saved: &SavedTsc, value: Option<u64>) -> Result<(), Error> {
    let passage = *crate::vm::lock(&vcpu.vm.passage);
    match saved.go_on(passage, keeps_offset(vcpu) && !vcpu.tsc_is_scaled, value) {
        GoOn::Offset(offset) => set_offset(vcpu, offset),
        GoOn::Value(value) => msrs::restore(vcpu, &[Msr { index: TSC, value }]),
        GoOn::AsItIs => Ok(()),
    }
}
