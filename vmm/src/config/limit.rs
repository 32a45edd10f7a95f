use super::ByteSize;
use super::flag::parse;
use drystone_limit::{LimitConfig, Rate};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::NonZeroU64;

/// How fast a device may be, as its user says it. What is not given is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Bytes a second, both directions together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<ByteSize>,
    /// Bytes that may pass at once after a rest. What the bandwidth gives in 50 ms unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_burst: Option<ByteSize>,
    /// Requests a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations: Option<u64>,
    /// Requests that may pass at once after a rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations_burst: Option<u64>,
}

impl LimitSettings {
    /// Sets one of a flag's settings. False: there is no such limit.
    ///
    /// # Errors
    /// What is wrong with the value.
    pub(super) fn set(&mut self, name: &str, value: Option<&str>) -> Result<bool, String> {
        match name {
            "bandwidth" => self.bandwidth = Some(parse(value)?),
            "bandwidth_burst" => self.bandwidth_burst = Some(parse(value)?),
            "operations" => self.operations = Some(parse(value)?),
            "operations_burst" => self.operations_burst = Some(parse(value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What a limiter is made of.
    ///
    /// # Errors
    /// One line that says which setting makes no sense.
    pub fn limits(&self) -> Result<LimitConfig, String> {
        let bytes = |size: Option<ByteSize>| size.map(|s| s.0);
        Ok(LimitConfig {
            bandwidth: rate("bandwidth", bytes(self.bandwidth), bytes(self.bandwidth_burst))?,
            operations: rate("operations", self.operations, self.operations_burst)?,
        })
    }
}

impl From<LimitConfig> for LimitSettings {
    fn from(limit: LimitConfig) -> Self {
        let LimitConfig { bandwidth, operations } = limit;
        let burst = |rate: Option<Rate>| rate.and_then(|rate| rate.burst).map(NonZeroU64::get);
        let per_second = |rate: Option<Rate>| rate.map(|rate| rate.per_second.get());
        Self {
            bandwidth: per_second(bandwidth).map(ByteSize),
            bandwidth_burst: burst(bandwidth).map(ByteSize),
            operations: per_second(operations),
            operations_burst: burst(operations),
        }
    }
}

/// In words: `bandwidth 100M, operations 500`.
impl fmt::Display for LimitSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bandwidth, bandwidth_burst, operations, operations_burst } = self;
        let part = |name, value: Option<String>| value.map(|value| format!("{name} {value}"));
        let parts = [
            part("bandwidth", bandwidth.map(|b| b.to_string())),
            part("bandwidth_burst", bandwidth_burst.map(|b| b.to_string())),
            part("operations", operations.map(|n| n.to_string())),
            part("operations_burst", operations_burst.map(|n| n.to_string())),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        if parts.is_empty() { f.write_str("no limit") } else { f.write_str(&parts.join(", ")) }
    }
}

fn rate(name: &str, per_second: Option<u64>, burst: Option<u64>) -> Result<Option<Rate>, String> {
    match (per_second, burst) {
        (None, Some(_)) => Err(format!("{name}_burst without {name}")),
        (Some(0), _) => Err(format!("{name} 0: must be at least 1")),
        (_, Some(0)) => Err(format!("{name}_burst 0: must be at least 1")),
        (per_second, burst) => {
            let burst = burst.and_then(NonZeroU64::new);
            Ok(per_second.and_then(Rate::new).map(|rate| Rate { burst, ..rate }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_limiter_has_is_what_its_user_said() {
        let some = LimitSettings {
            bandwidth: Some(ByteSize(5)),
            operations_burst: Some(3),
            operations: Some(2),
            ..Default::default()
        };
        let all = LimitSettings { bandwidth_burst: Some(ByteSize(7)), ..some };
        for said in [LimitSettings::default(), some, all] {
            assert_eq!(LimitSettings::from(said.limits().unwrap()), said);
        }
    }
}
