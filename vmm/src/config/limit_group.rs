use super::{ByteSize, LimitSettings};
use serde::{Deserialize, Serialize};
use std::fmt::Display;
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

/// Why a flag describes no group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitGroupError {
    /// No such setting.
    #[error("{0:?} is no setting: use name, bandwidth, bandwidth_burst, operations or operations_burst")]
    Unknown(String),
    /// A setting given twice.
    #[error("{0} is given twice")]
    Twice(String),
    /// A value that the setting cannot have.
    #[error("{name}={value:?}: {what}")]
    Value {
        /// The setting.
        name: String,
        /// The value.
        value: String,
        /// What is wrong with it.
        what: String,
    },
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
        let name = &self.name;
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)) {
            return Err(format!("name {name:?}: use letters, digits, '_' and '-'"));
        }
        self.limit().limits().map(drop)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), LimitGroupError> {
        fn parse<T: FromStr<Err: Display>>(name: &str, value: &str) -> Result<T, LimitGroupError> {
            value.parse().map_err(|e: T::Err| {
                let what = e.to_string();
                LimitGroupError::Value { name: name.into(), value: value.into(), what }
            })
        }
        match name {
            "name" => self.name = value.into(),
            "bandwidth" => self.bandwidth = Some(parse(name, value)?),
            "bandwidth_burst" => self.bandwidth_burst = Some(parse(name, value)?),
            "operations" => self.operations = Some(parse(name, value)?),
            "operations_burst" => self.operations_burst = Some(parse(name, value)?),
            _ => return Err(LimitGroupError::Unknown(name.into())),
        }
        Ok(())
    }
}

impl FromStr for LimitGroupConfig {
    type Err = LimitGroupError;

    /// The flag's form: `shared,bandwidth=100M` or `name=shared,operations=500`.
    fn from_str(text: &str) -> Result<Self, LimitGroupError> {
        let (mut group, mut given) = (Self::default(), Vec::new());
        for (n, item) in text.split(',').enumerate() {
            let (name, value) = match item.split_once('=') {
                Some(both) => both,
                None if n == 0 => ("name", item),
                None => (item, ""),
            };
            if given.contains(&name) {
                return Err(LimitGroupError::Twice(name.into()));
            }
            given.push(name);
            group.set(name, value)?;
        }
        Ok(group)
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
