use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::str::FromStr;

/// The name of a running machine: a lower-case letter or a digit, then up to 62 of those, `-`, `_` and `.`.
///
/// So it can stand in a path, a URL and a table without quoting.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VmId(String);

/// A text that is no [`VmId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name for a machine: use up to 63 of a-z, 0-9, '-', '_' and '.', starting with a letter or a digit"
)]
pub struct BadId(String);

const MAX_LEN: usize = 63;

impl FromStr for VmId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let good = text.len() <= MAX_LEN
            && text.starts_with(plain)
            && text.chars().all(|c| plain(c) || matches!(c, '-' | '_' | '.'));
        // A long wrong name is cut, so that the error stays a line.
        good.then(|| Self(text.into())).ok_or_else(|| BadId(text.chars().take(80).collect()))
    }
}

impl VmId {
    /// A name of three syllables and two digits, such as `takibo-47`: 57 million of them, without a promise that none
    /// is taken.
    pub fn make_up() -> Self {
        // std seeds its hasher from the host's entropy; a name needs no more than that.
        let mut random = RandomState::new().build_hasher().finish();
        let mut pick = |n: usize| {
            let picked = (random % n as u64) as usize;
            random /= n as u64;
            picked
        };
        let mut name = String::new();
        for _ in 0..3 {
            name.extend("bdfghjklmnprstvz".chars().nth(pick(16)));
            name.extend("aeiou".chars().nth(pick(5)));
        }
        name.push_str(&format!("-{}", 10 + pick(90)));
        Self(name)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<Path> for VmId {
    fn as_ref(&self) -> &Path {
        self.0.as_ref()
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_they_may_be() {
        for good in ["a", "0", "web-1", "a_b.c", &"x".repeat(63)] {
            assert_eq!(good.parse::<VmId>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "-a", ".lock", "_x", "A", "a/b", "a b", "a\n", "ä", "a\0", &"x".repeat(64)]
        {
            assert!(bad.parse::<VmId>().is_err(), "{bad:?}");
        }
        assert!("y".repeat(1 << 20).parse::<VmId>().unwrap_err().to_string().len() < 300);
    }

    #[test]
    fn made_up_names_are_names_and_differ() {
        let names: std::collections::BTreeSet<_> = (0..64).map(|_| VmId::make_up()).collect();
        assert!(names.len() > 60);
        for name in names {
            assert_eq!(name.as_str().parse(), Ok(name.clone()));
        }
    }
}
