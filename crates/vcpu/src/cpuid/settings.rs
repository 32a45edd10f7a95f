//! What a user wants of single features, as data.

use super::feature::{Class, Feature, FeatureBit, UnknownFeature};
use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// What is wanted of a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Setting {
    /// Given if the host has it, also beyond a baseline.
    On,
    /// Not given, and so nothing that needs it.
    Off,
    /// Given; a host that cannot is refused.
    Require,
}

/// Settings of single features, over a [`Baseline`](super::Baseline). In a file a table, such as
/// `{ avx2 = "off", sha_ni = "require", "7.0.ebx.5" = "off" }`; on a command line `-avx2,sha_ni=require,+clwb`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeatureSettings(BTreeMap<FeatureBit, Setting>);

/// Why a text is no such setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// No such feature.
    #[error(transparent)]
    Feature(#[from] UnknownFeature),
    /// Neither `+name`, `-name` nor `name=on`.
    #[error("{0:?} is no setting of a feature: write +NAME, -NAME, or NAME= and on, off or require")]
    Setting(String),
    /// What no guest is ever given.
    #[error("{name} cannot be given to a guest: {}", why(*.class))]
    NeverGiven {
        /// The feature.
        name: &'static str,
        /// Why.
        class: Class,
    },
}

fn why(class: Class) -> &'static str {
    match class {
        Class::Topology => "it follows from the grouping of vCPUs",
        Class::Nested => "what the guest's own guests hold could be neither saved nor reset",
        _ => "it makes sense on the host only",
    }
}

impl FeatureSettings {
    /// Nothing but what the baseline says.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets one feature; the last word on it counts.
    ///
    /// # Errors
    /// [`SettingsError::NeverGiven`] when it is asked for and no guest gets it.
    pub fn set(&mut self, feature: FeatureBit, setting: Setting) -> Result<&mut Self, SettingsError> {
        if let Some(known) = Feature::of(&feature.0)
            && setting != Setting::Off
            && matches!(known.class, Class::Host | Class::Topology | Class::Nested)
        {
            return Err(SettingsError::NeverGiven { name: known.name, class: known.class });
        }
        self.0.insert(feature, setting);
        Ok(self)
    }

    /// Adds what `others` say, which has the last word.
    pub fn extend(&mut self, others: &Self) {
        self.0.extend(&others.0);
    }

    /// All of them, by bit.
    pub fn iter(&self) -> impl Iterator<Item = (FeatureBit, Setting)> {
        self.0.iter().map(|(bit, setting)| (*bit, *setting))
    }
}

impl FromStr for Setting {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            "require" => Ok(Self::Require),
            _ => Err(()),
        }
    }
}

impl FromStr for FeatureSettings {
    type Err = SettingsError;

    /// The flag's form: `-avx2,+clwb,sha_ni=require`.
    fn from_str(text: &str) -> Result<Self, SettingsError> {
        let mut settings = Self::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let wrong = || SettingsError::Setting(item.into());
            let (name, setting) = match (item.strip_prefix('+'), item.strip_prefix('-'), item.split_once('='))
            {
                (Some(name), ..) => (name, Setting::On),
                (_, Some(name), _) => (name, Setting::Off),
                (_, _, Some((name, setting))) => (name, setting.parse().map_err(|()| wrong())?),
                _ => return Err(wrong()),
            };
            settings.set(name.parse()?, setting)?;
        }
        Ok(settings)
    }
}

impl fmt::Display for FeatureSettings {
    /// The flag's form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (feature, setting)) in self.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            match setting {
                Setting::On => write!(f, "{comma}+{feature}")?,
                Setting::Off => write!(f, "{comma}-{feature}")?,
                Setting::Require => write!(f, "{comma}{feature}=require")?,
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OnOff;
        impl Visitor<'_> for OnOff {
            type Value = Setting;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("on, off or require")
            }
            fn visit_bool<E: Error>(self, on: bool) -> Result<Setting, E> {
                Ok(if on { Setting::On } else { Setting::Off })
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Setting, E> {
                text.parse().map_err(|()| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(OnOff)
    }
}

impl Serialize for FeatureSettings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(feature, setting)| (feature.to_string(), setting)))
    }
}

impl<'de> Deserialize<'de> for FeatureSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = FeatureSettings;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of features, each on, off or require")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FeatureSettings, A::Error> {
                let mut settings = FeatureSettings::new();
                while let Some((name, setting)) = map.next_entry::<String, Setting>()? {
                    let feature = name.parse().map_err(A::Error::custom)?;
                    settings.set(feature, setting).map_err(A::Error::custom)?;
                }
                Ok(settings)
            }
        }
        deserializer.deserialize_map(Table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_they_are_written() {
        let settings: FeatureSettings = "-avx2, +clwb,sha_ni=require,7.0.ebx.18=off,aes=on".parse().unwrap();
        let named: Vec<_> = settings.iter().map(|(f, s)| (f.to_string(), s)).collect();
        assert_eq!(
            named,
            [
                ("aes".to_owned(), Setting::On),
                ("avx2".to_owned(), Setting::Off),
                ("rdseed".to_owned(), Setting::Off),
                ("clwb".to_owned(), Setting::On),
                ("sha_ni".to_owned(), Setting::Require),
            ]
        );
        assert_eq!(settings.to_string().parse(), Ok(settings));
        assert_eq!("".parse(), Ok(FeatureSettings::new()));
    }

    #[test]
    fn the_last_word_counts() {
        let mut settings: FeatureSettings = "-avx2,+aes".parse().unwrap();
        settings.extend(&"+avx2".parse().unwrap());
        assert_eq!(settings.to_string(), "+aes,+avx2");
    }

    #[test]
    fn what_is_no_setting_is_said() {
        let error = |text: &str| text.parse::<FeatureSettings>().unwrap_err().to_string();
        assert!(error("avx2").starts_with("\"avx2\" is no setting of a feature"));
        assert!(error("avx2=maybe").contains("on, off or require"));
        assert!(error("-nonsense").starts_with("\"nonsense\" is no feature"));
        assert_eq!(error("+monitor"), "monitor cannot be given to a guest: it makes sense on the host only");
        assert_eq!(
            error("ht=require"),
            "ht cannot be given to a guest: it follows from the grouping of vCPUs"
        );
        assert!("-monitor,-ht".parse::<FeatureSettings>().is_ok(), "they may be taken away twice");
    }
}
