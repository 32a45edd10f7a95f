use crate::{Mac, NetError};
use drystone_limit::LimitConfig;
use serde::{Deserialize, Serialize};

/// Most pairs of queues: each has a worker.
pub const MAX_PAIRS: u16 = 16;
/// Smallest and largest MTU (5.1.4.1).
const MTUS: std::ops::RangeInclusive<u16> = 68..=65535;
/// Entries of a queue.
const SIZES: std::ops::RangeInclusive<u16> = 4..=1024;

/// A network device, without what carries its frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetConfig {
    /// Its name in messages.
    pub id: String,
    /// Its Ethernet address. The driver may choose another, unless that is [enforced](Self::enforce_mac).
    pub mac: Mac,
    /// The largest packet that the network takes, in bytes, without Ethernet header: the driver is told if it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Pairs of a queue for each direction: 1 to [`MAX_PAIRS`].
    #[serde(default = "one")]
    pub pairs: u16,
    /// Entries of each queue: a power of two from 4 to 1024.
    #[serde(default = "queue_size")]
    pub queue_size: u16,
    /// What the guest sends from another address is dropped, and it cannot change its own.
    #[serde(default)]
    pub enforce_mac: bool,
    /// Limits of what the guest receives; operations are frames.
    #[serde(default)]
    pub rx_limit: LimitConfig,
    /// Limits of what the guest sends; operations are frames.
    #[serde(default)]
    pub tx_limit: LimitConfig,
}

fn one() -> u16 {
    1
}

fn queue_size() -> u16 {
    256
}

impl NetConfig {
    /// One pair of queues, no limits.
    pub fn new(id: impl Into<String>, mac: Mac) -> Self {
        Self {
            id: id.into(),
            mac,
            mtu: None,
            pairs: one(),
            queue_size: queue_size(),
            enforce_mac: false,
            rx_limit: LimitConfig::default(),
            tx_limit: LimitConfig::default(),
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// [`NetError::Config`]: the first that makes no sense.
    pub fn validate(&self) -> Result<(), NetError> {
        let bad = |what: String| Err(NetError::Config { id: self.id.clone(), what });
        if self.id.is_empty() {
            return bad("a name of at least one character is needed".into());
        }
        if let Err(e) = self.mac.of_one() {
            return bad(e.to_string());
        }
        if let Some(mtu) = self.mtu.filter(|mtu| !MTUS.contains(mtu)) {
            return bad(format!("mtu {mtu}: {} to {} are possible", MTUS.start(), MTUS.end()));
        }
        if !(1..=MAX_PAIRS).contains(&self.pairs) {
            return bad(format!("{} pairs of queues: 1 to {MAX_PAIRS} are possible", self.pairs));
        }
        if !SIZES.contains(&self.queue_size) || !self.queue_size.is_power_of_two() {
            let (min, max) = (SIZES.start(), SIZES.end());
            return bad(format!(
                "queue_size {}: a power of two from {min} to {max} is possible",
                self.queue_size
            ));
        }
        Ok(())
    }
}
