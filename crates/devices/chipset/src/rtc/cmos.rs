use serde::{Deserialize, Serialize};

/// The size of CMOS RAM, clock registers included.
pub(super) const CMOS_LEN: usize = 128;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What a [`Rtc`](super::Rtc)'s CMOS RAM says about the machine. Firmware reads it; Linux does not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RtcConfig {
    /// Bytes of RAM below 4 GiB, for the memory size fields (0x15-0x18, 0x30, 0x31, 0x34, 0x35).
    /// They are zero if it is not given.
    pub memory_below_4g: Option<u64>,
    /// Bytes of RAM from 4 GiB on, for the field at 0x5b-0x5d. It is zero if it is not given.
    pub memory_above_4g: Option<u64>,
}

impl RtcConfig {
    /// CMOS RAM as the firmware of a PC would have left it.
    pub(super) fn cmos(&self) -> [u8; CMOS_LEN] {
        let mut cmos = [0; CMOS_LEN];
        // (low register, bytes it takes, value, least significant first)
        let mut put = |at: usize, len: usize, value: u64| {
            let most = (1 << (8 * len)) - 1;
            let value = value.min(most).to_le_bytes();
            for (to, from) in cmos.iter_mut().skip(at).zip(value.iter().take(len)) {
                *to = *from;
            }
        };
        if let Some(below) = self.memory_below_4g {
            let extended = below.saturating_sub(MIB) / KIB;
            put(0x15, 2, (below / KIB).min(640));
            put(0x17, 2, extended);
            put(0x30, 2, extended);
            put(0x34, 2, below.saturating_sub(16 * MIB) / (64 * KIB));
        }
        if let Some(above) = self.memory_above_4g {
            put(0x5b, 3, above / (64 * KIB));
        }
        cmos
    }
}
