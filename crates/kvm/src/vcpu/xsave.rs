//! Vector registers, in an area whose size depends on the processor.

use super::KvmVcpu;
use crate::error::{call, invalid};
use drystone_hypervisor::Error;
use kvm_bindings::{Xsave, kvm_xsave};

/// Words of 32 bits of the area that KVM always had: the legacy region, the header, and 3,520 bytes of components.
const CLASSIC_WORDS: usize = 1024;

fn new_area(vcpu: &KvmVcpu) -> Result<Xsave, Error> {
    let extra = vcpu.vm.xsave_size.unwrap_or_default().saturating_sub(size_of::<kvm_xsave>());
    Xsave::new(extra.div_ceil(4))
        .map_err(|e| invalid(vcpu.attempt("allocate the XSAVE area"), format!("{e:?}")))
}

pub(super) fn read(vcpu: &KvmVcpu) -> Result<Vec<u32>, Error> {
    let failed = || vcpu.attempt("read the XSAVE area");
    if vcpu.vm.xsave_size.is_none() {
        return Ok(vcpu.fd.get_xsave().map_err(call(failed))?.region.to_vec());
    }
    let mut area = new_area(vcpu)?;
    // SAFETY: the area is as large as KVM_CAP_XSAVE2 says that KVM fills it.
    unsafe { vcpu.fd.get_xsave2(&mut area) }.map_err(call(failed))?;
    let classic = area.as_fam_struct_ref().xsave.region;
    Ok([classic.as_slice(), area.as_slice()].concat())
}

/// Components have fixed places, so an area of another size fits as long as there is nothing in what it lacks.
pub(super) fn write(vcpu: &KvmVcpu, words: &[u32]) -> Result<(), Error> {
    let mut area = new_area(vcpu)?;
    let (classic, extra) = words.split_at_checked(CLASSIC_WORDS).unwrap_or_default();
    let room = area.as_slice().len();
    let why = match extra.get(room..) {
        _ if classic.is_empty() => format!("{} bytes are less than any processor has", words.len() * 4),
        Some(beyond) if beyond.iter().any(|&word| word != 0) => format!(
            "it has {} bytes in use, and this host takes {} ({})",
            words.len() * 4,
            (CLASSIC_WORDS + room) * 4,
            if vcpu.vm.xsave_size.is_some() { "KVM_CAP_XSAVE2" } else { "it has no KVM_CAP_XSAVE2" },
        ),
        _ => String::new(),
    };
    if !why.is_empty() {
        return Err(invalid(vcpu.attempt("set the XSAVE area"), why));
    }
    area.as_mut_slice().iter_mut().zip(extra).for_each(|(to, from)| *to = *from);
    // SAFETY: the length, which this reference could change, is left alone.
    unsafe { area.as_mut_fam_struct() }.xsave.region.copy_from_slice(classic);
    // SAFETY: the area is as large as KVM_CAP_XSAVE2 says that KVM reads it, or, on older hosts, the classic 4 KiB.
    // KVM checks its content.
    unsafe { vcpu.fd.set_xsave2(&area) }.map_err(call(|| vcpu.attempt("set the XSAVE area")))
}
