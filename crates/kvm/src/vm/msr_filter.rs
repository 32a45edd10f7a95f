//! [`MsrFilter`] in KVM's terms: up to 16 ranges of bitmaps, in which a clear bit takes a register from KVM (kernel
//! document virt/kvm/api, KVM_X86_SET_MSR_FILTER).

use super::create::require;
use crate::error::{call, invalid};
use drystone_hypervisor::{Error, MsrAction, MsrFilter};
use kvm_bindings::{KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_FILTER_MAX_BITMAP_SIZE, kvm_enable_cap};
use kvm_ioctls::{Cap, MsrExitReason, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd};

/// How many registers one of KVM's ranges covers at most.
const MAX_REGISTERS: u64 = KVM_MSR_FILTER_MAX_BITMAP_SIZE as u64 * 8;

pub(super) fn install(fd: &VmFd, filter: &MsrFilter) -> Result<(), Error> {
    let takes_any = !filter.ranges.is_empty();
    let hands_over = filter.ranges.iter().any(|r| r.action == MsrAction::HandOver);
    let mut reasons = MsrExitReason::empty();
    reasons.set(MsrExitReason::Filter, hands_over);
    reasons.set(MsrExitReason::Unknown, filter.hand_over_unknown);
    if !reasons.is_empty() {
        require(fd, &[Cap::X86UserSpaceMsr], "MSRs that the VMM answers (KVM_CAP_X86_USER_SPACE_MSR)")?;
        let cap = kvm_enable_cap {
            cap: KVM_CAP_X86_USER_SPACE_MSR,
            args: [reasons.bits().into(), 0, 0, 0],
            ..Default::default()
        };
        fd.enable_cap(&cap).map_err(call(|| "have MSR accesses handed over"))?;
    }
    if takes_any {
        require(fd, &[Cap::X86MsrFilter], "MSR filter (KVM_CAP_X86_MSR_FILTER)")?;
        let mut bitmaps = bitmaps(filter, false)?;
        bitmaps.extend(self::bitmaps(filter, true)?);
        let ranges: Vec<_> = bitmaps.iter().map(Bitmap::range).collect();
        fd.set_msr_filter(MsrFilterDefaultAction::ALLOW, &ranges)
            .map_err(call(|| format!("set a filter of {} MSR ranges (KVM takes 16 in all)", ranges.len())))?;
    }
    Ok(())
}

/// One of KVM's ranges, for reads or for writes.
struct Bitmap {
    write: bool,
    first: u32,
    last: u32,
    bits: Vec<u8>,
}

impl Bitmap {
    fn range(&self) -> MsrFilterRange<'_> {
        MsrFilterRange {
            flags: if self.write { MsrFilterRangeFlags::WRITE } else { MsrFilterRangeFlags::READ },
            base: self.first,
            msr_count: self.last - self.first + 1,
            bitmap: &self.bits,
        }
    }
}

/// As few of KVM's ranges as cover all that is taken in one direction.
fn bitmaps(filter: &MsrFilter, write: bool) -> Result<Vec<Bitmap>, Error> {
    let taken = filter.ranges.iter().filter(|r| r.access.covers(write));
    let mut taken: Vec<(u32, u32)> = taken.map(|r| (r.first, r.last)).collect();
    taken.sort_unstable();
    let mut bitmaps: Vec<Bitmap> = Vec::new();
    for (first, last) in taken {
        let why = match last.checked_sub(first) {
            None => "its last register comes before its first",
            Some(more) if u64::from(more) >= MAX_REGISTERS => {
                "it has more registers than KVM can filter at once"
            }
            Some(_) => "",
        };
        if !why.is_empty() {
            return Err(invalid(format!("filter the MSRs {first:#x} to {last:#x}"), why));
        }
        match bitmaps.last_mut().filter(|b| u64::from(last.max(b.last) - b.first) < MAX_REGISTERS) {
            Some(bitmap) => bitmap.last = bitmap.last.max(last),
            None => bitmaps.push(Bitmap { write, first, last, bits: Vec::new() }),
        }
    }
    for bitmap in &mut bitmaps {
        bitmap.bits = (bitmap.first..=bitmap.last)
            .collect::<Vec<_>>()
            .chunks(8)
            .map(|registers| {
                let allowed =
                    registers.iter().enumerate().filter(|&(_, &index)| filter.action(index, write).is_none());
                allowed.fold(0, |byte, (bit, _)| byte | 1 << bit)
            })
            .collect();
    }
    Ok(bitmaps)
}
