use drystone_state::{RestoreError, Schema};
use serde::{Deserialize, Serialize};

/// The saved state of an [`Rtc`](super::Rtc).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RtcState {
    /// The selected register.
    pub index: u8,
    /// Status register A.
    pub status_a: u8,
    /// Status register B.
    pub status_b: u8,
    /// Seconds that the guest's time is ahead of the host's.
    pub offset_seconds: i64,
    /// Seconds, minutes, hours, day of the week, day, month, year, century as written, while the guest sets the time.
    pub held_time: Option<[u8; 8]>,
    /// CMOS RAM, 128 bytes; those of the clock's registers are not used.
    pub ram: Vec<u8>,
}

impl Schema for RtcState {
    const KIND: &'static str = "rtc";
    const VERSION: u32 = 1;
}

pub(super) fn invalid(cause: String) -> RestoreError {
    RestoreError::Invalid { kind: RtcState::KIND, cause }
}
