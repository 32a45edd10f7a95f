use super::KvmVcpu;
use crate::error::{call, invalid};
use drystone_hypervisor::{Error, Msr};
use kvm_bindings::{KVM_MAX_MSR_ENTRIES, Msrs, kvm_msr_entry};
use vmm_sys_util::errno;

fn entries(msrs: impl Iterator<Item = Msr>) -> Result<Msrs, Error> {
    let entries: Vec<_> =
        msrs.map(|m| kvm_msr_entry { index: m.index, data: m.value, reserved: 0 }).collect();
    Msrs::from_entries(&entries).map_err(|e| invalid("list MSRs", format!("{e:?}")))
}

/// Reads up to KVM_MAX_MSR_ENTRIES registers, ending before the first that cannot be read.
fn read_some(vcpu: &KvmVcpu, indices: &[u32]) -> Result<Vec<Msr>, Error> {
    let mut list = entries(indices.iter().map(|&index| Msr { index, value: 0 }))?;
    let count = vcpu.fd.get_msrs(&mut list).map_err(call(|| vcpu.attempt("read the MSRs")))?;
    Ok(list.as_slice().iter().take(count).map(|e| Msr { index: e.index, value: e.data }).collect())
}

pub(super) fn read(vcpu: &KvmVcpu, indices: &[u32]) -> Result<Vec<Msr>, Error> {
    let mut read = Vec::with_capacity(indices.len());
    for part in indices.chunks(KVM_MAX_MSR_ENTRIES) {
        let some = read_some(vcpu, part)?;
        if let Some(index) = part.get(some.len()) {
            return Err(invalid(
                vcpu.attempt(&format!("read MSR {index:#x}")),
                "the host's KVM does not have it",
            ));
        }
        read.extend(some);
    }
    Ok(read)
}

/// Reads those of `indices` that can be read.
pub(super) fn read_available(vcpu: &KvmVcpu, indices: &[u32]) -> Result<Vec<Msr>, Error> {
    let mut read = Vec::with_capacity(indices.len());
    for mut part in indices.chunks(KVM_MAX_MSR_ENTRIES) {
        while !part.is_empty() {
            let some = read_some(vcpu, part)?;
            // Behind what was read is one that cannot be.
            part = part.get(some.len() + 1..).unwrap_or_default();
            read.extend(some);
        }
    }
    Ok(read)
}

/// Sets up to KVM_MAX_MSR_ENTRIES registers, ending before the first that cannot be set: how many were.
fn write_some(vcpu: &KvmVcpu, msrs: &[Msr]) -> Result<usize, Error> {
    let list = entries(msrs.iter().copied())?;
    let done: Result<usize, errno::Error> = vcpu.fd.set_msrs(&list);
    done.map_err(call(|| vcpu.attempt("set the MSRs")))
}

fn refused(vcpu: &KvmVcpu, msr: &Msr) -> Error {
    let what = format!("set MSR {:#x} to {:#x}", msr.index, msr.value);
    invalid(vcpu.attempt(&what), "the host's KVM refuses it")
}

pub(super) fn write(vcpu: &KvmVcpu, msrs: &[Msr]) -> Result<(), Error> {
    for part in msrs.chunks(KVM_MAX_MSR_ENTRIES) {
        let done = write_some(vcpu, part)?;
        if let Some(msr) = part.get(done) {
            return Err(refused(vcpu, msr));
        }
    }
    Ok(())
}

/// As [`write`], but a register that cannot be set and has the wanted value already is no error: some can be read
/// only, or only be set before the vCPU first ran.
pub(super) fn restore(vcpu: &KvmVcpu, msrs: &[Msr]) -> Result<(), Error> {
    for mut part in msrs.chunks(KVM_MAX_MSR_ENTRIES) {
        while !part.is_empty() {
            let done = write_some(vcpu, part)?;
            if let Some(msr) = part.get(done)
                && read_some(vcpu, &[msr.index])? != [*msr]
            {
                return Err(refused(vcpu, msr));
            }
            part = part.get(done + 1..).unwrap_or_default();
        }
    }
    Ok(())
}
