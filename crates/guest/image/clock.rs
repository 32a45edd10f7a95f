//! kvm-clock (kernel document virt/kvm/x86/msr).

use crate::sys;

const SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
const ENABLE: u64 = 1;

/// What KVM writes there (`pvclock_vcpu_time_info`).
#[repr(C, align(64))]
struct TimeInfo {
    version: u32,
    pad: u32,
    tsc_timestamp: u64,
    system_time: u64,
    mul: u32,
    shift: i8,
    flags: u8,
    pad2: [u8; 2],
}

static mut TIME_INFO: TimeInfo = TimeInfo {
    version: 0,
    pad: 0,
    tsc_timestamp: 0,
    system_time: 0,
    mul: 0,
    shift: 0,
    flags: 0,
    pad2: [0; 2],
};

/// Nanoseconds since the machine was made, and the frequency of the time-stamp counter in kHz.
pub struct KvmClock {
    pub nanoseconds: u64,
    pub tsc_khz: u64,
}

/// Reads it; only where CPUID offers it.
pub fn read() -> Option<KvmClock> {
    let info = &raw mut TIME_INFO;
    // SAFETY: the structure is static, has the size that KVM writes, and only this function reads it, as volatile.
    unsafe { sys::write_msr(SYSTEM_TIME_NEW, info as u64 | ENABLE) };
    // SAFETY: as above.
    let read = || unsafe { info.read_volatile() };
    (0..1000).find_map(|_| {
        let (now, tsc) = (read(), sys::time_stamp());
        // Odd while it is being written.
        (now.version & 1 == 0 && now.version == read().version && now.mul != 0).then(|| {
            let past = tsc.saturating_sub(now.tsc_timestamp);
            let nanoseconds = now.system_time.wrapping_add(scaled(past, now.mul, now.shift));
            KvmClock { nanoseconds, tsc_khz: khz(now.mul, now.shift) }
        })
    })
}

fn scaled(ticks: u64, mul: u32, shift: i8) -> u64 {
    let ticks = u128::from(ticks) * u128::from(mul);
    let shift = 32 - i32::from(shift);
    (ticks >> shift.clamp(0, 127)) as u64
}

fn khz(mul: u32, shift: i8) -> u64 {
    let shift = 32 - i32::from(shift);
    let khz = (1_000_000_u128 << shift.clamp(0, 64)) / u128::from(mul);
    khz as u64
}
