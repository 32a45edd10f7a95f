//! Flags that are lists of settings: `root.img,readonly,queues=4`.

use super::Transport;
use std::str::FromStr;

/// Why a flag does not describe what it is for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlagError {
    /// No such setting.
    #[error("{name:?} is no setting: use {known}")]
    Unknown {
        /// What was given.
        name: String,
        /// What there is.
        known: &'static str,
    },
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

/// What a list of settings describes.
pub(super) trait Settings: Default {
    /// The names of all settings, for people.
    const KNOWN: &'static str;
    /// The setting that a first word without a value is the value of.
    const FIRST: Option<&'static str> = None;
    /// Settings that may be given more than once.
    const LISTS: &'static [&'static str] = &[];

    /// Sets one. False: there is no such setting.
    ///
    /// # Errors
    /// What is wrong with the value.
    fn set(&mut self, name: &str, value: Option<&str>) -> Result<bool, String>;
}

/// Reads a flag.
pub(super) fn read<T: Settings>(text: &str) -> Result<T, FlagError> {
    let (mut all, mut given) = (T::default(), Vec::new());
    for (n, item) in text.split(',').enumerate() {
        let (name, value) = match (item.split_once('='), T::FIRST) {
            (Some((name, value)), _) => (name, Some(value)),
            (None, Some(first)) if n == 0 => (first, Some(item)),
            (None, _) => (item, None),
        };
        if given.contains(&name) && !T::LISTS.contains(&name) {
            return Err(FlagError::Twice(name.into()));
        }
        given.push(name);
        match all.set(name, value) {
            Ok(true) => {}
            Ok(false) => return Err(FlagError::Unknown { name: name.into(), known: T::KNOWN }),
            Err(what) => {
                let value = value.unwrap_or_default().into();
                return Err(FlagError::Value { name: name.into(), value, what });
            }
        }
    }
    Ok(all)
}

/// A value that is there.
pub(super) fn parse<T: FromStr<Err: ToString>>(value: Option<&str>) -> Result<T, String> {
    value.ok_or("needs a value")?.parse().map_err(|e: T::Err| e.to_string())
}

/// `true` and `false`; to be named is enough.
pub(super) fn yes(value: Option<&str>) -> Result<bool, String> {
    value.map_or(Ok(true), |v| v.parse().map_err(|_| "use true or false".into()))
}

/// One of these words.
pub(super) fn choose<T: Copy>(value: Option<&str>, all: &[(&str, T)]) -> Result<T, String> {
    let chosen = all.iter().find(|(name, _)| Some(*name) == value);
    chosen.map(|(_, one)| *one).ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|(name, _)| *name).collect();
        match names.split_last() {
            Some((last, [])) => format!("use {last}"),
            Some((last, others)) => format!("use {} or {last}", others.join(", ")),
            None => "no value will do".into(),
        }
    })
}

/// How a device is reached.
pub(super) fn transport(value: Option<&str>) -> Result<Transport, String> {
    choose(value, &[("pci", Transport::Pci), ("mmio", Transport::Mmio)])
}

/// That a name can be one of a part of a machine: in messages, counters and commands.
pub(super) fn check_name(what: &str, name: &str) -> Result<(), String> {
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)) {
        return Err(format!("{what} {name:?}: use letters, digits, '_' and '-'"));
    }
    Ok(())
}
