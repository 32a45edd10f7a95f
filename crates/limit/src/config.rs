use serde::{Deserialize, Serialize};
use std::num::NonZeroU64;

/// The default burst is what the rate gives in this part of a second: 50 ms. Any second is then within 5 % of the rate,
/// and a host that wakes a worker up to 50 ms late costs the guest nothing.
const BURSTS_A_SECOND: u64 = 20;

/// What a device may do. Absent means without limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitConfig {
    /// Bytes of payload, both directions together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Rate>,
    /// Requests, of whatever size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations: Option<Rate>,
}

/// Tokens a second, and how many may be saved up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Bytes or operations a second.
    pub per_second: NonZeroU64,
    /// How many bytes or operations may pass at once after a time of rest; also how much lost time is made up for when
    /// a worker is woken late. What the rate gives in 50 ms unless given, and at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<NonZeroU64>,
}

impl Rate {
    /// `per_second` tokens a second with the default burst; `None` for 0, which would stop a guest for ever.
    pub fn new(per_second: u64) -> Option<Self> {
        NonZeroU64::new(per_second).map(|per_second| Self { per_second, burst: None })
    }

    /// The burst in tokens, with the default filled in.
    pub fn burst(&self) -> u64 {
        let default = (self.per_second.get() / BURSTS_A_SECOND).max(1);
        self.burst.map_or(default, NonZeroU64::get)
    }
}
