use super::flag::{self, FlagError, Settings, check_name, parse};
use super::{ByteSize, LimitSettings};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// A limit that several disks share, beside those that they have for themselves. In a file a table of the array `limit_group`; as a
/// flag `shared,bandwidth=100M`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitGroupConfig {
    /// What disks name it by: letters, digits, `_` and `-`.
    pub name: String,
    /// Bytes a second of all its disks, both directions together. No limit unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<ByteSize>,
    /// Bytes that may pass at once after a rest. What the bandwidth gives in 50 ms unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_burst: Option<ByteSize>,
    /// Requests a second of all its disks. No limit unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations: Option<u64>,
    /// Requests that may pass at once after a rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations_burst: Option<u64>,
}

impl LimitGroupConfig {
    /// As if it had had this limit from the start.
    pub(crate) fn set_limit(&mut self, limit: LimitSettings) {
        let LimitSettings { bandwidth, bandwidth_burst, operations, operations_burst } = limit;
        (self.bandwidth, self.bandwidth_burst) = (bandwidth, bandwidth_burst);
        (self.operations, self.operations_burst) = (operations, operations_burst);
    }

    /// How fast its disks may be together.
    pub fn limit(&self) -> LimitSettings {
        let Self { name: _, bandwidth, bandwidth_burst, operations, operations_burst } = *self;
        LimitSettings { bandwidth, bandwidth_burst, operations, operations_burst }
    }

    /// Checks its name and its limits.
    ///
    /// # Errors
    /// One line that says which setting makes no sense.
    pub fn validate(&self) -> Result<(), String> {
        check_name("name", &self.name)?;
        self.limit().limits().map(drop)
    }
}

impl Settings for LimitGroupConfig {
    const KNOWN: &'static str = "name, bandwidth, bandwidth_burst, operations or operations_burst";
    const FIRST: Option<&'static str> = Some("name");

    fn set(&mut self, name: &str, value: Option<&str>) -> Result<bool, String> {
        if name == "name" {
            self.name = parse(value)?;
            return Ok(true);
        }
        let mut limit = self.limit();
        let known = limit.set(name, value)?;
        self.set_limit(limit);
        Ok(known)
    }
}

impl FromStr for LimitGroupConfig {
    type Err = FlagError;

    /// The flag's form: `shared,bandwidth=100M` or `name=shared,operations=500`.
    fn from_str(text: &str) -> Result<Self, FlagError> {
        flag::read(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_a_name_and_limits() {
        let group: LimitGroupConfig = "shared,bandwidth=100M,operations=500".parse().unwrap();
        let same: LimitGroupConfig = "operations=500,name=shared,bandwidth=100M".parse().unwrap();
        assert_eq!((&group, group.validate()), (&same, Ok(())));
        assert_eq!(group.limit().to_string(), "bandwidth 100M, operations 500");
        let wrong = |text: &str| match text.parse::<LimitGroupConfig>() {
            Ok(group) => group.validate().unwrap_err(),
            Err(e) => e.to_string(),
        };
        assert!(wrong("a b,bandwidth=1").contains("name \"a b\""));
        assert!(wrong("bandwidth=1").contains("name \"\""));
        assert!(wrong("a,bandwidth=0").contains("bandwidth 0"));
        assert!(wrong("a,operations_burst=1").contains("operations_burst without operations"));
        assert!(wrong("a,operations=x").contains("operations=\"x\""));
        assert!(wrong("a,sise=1").contains("sise"));
        assert!(wrong("a,name=b").contains("name is given twice"));
    }
}
