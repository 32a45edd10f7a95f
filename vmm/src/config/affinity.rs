use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// On which of the host's processors each virtual CPU may run. Written `0=0,1=1-2,4` (the last is vCPU 1 on processors
/// 1, 2 and 4), or `0-3=8-11`: any of those vCPUs on any of those processors. vCPUs that are not named run anywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Affinity(BTreeMap<u32, BTreeSet<u32>>);

/// Why a text says nothing of that kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AffinityError {
    /// No number, or no range.
    #[error("{0:?}: write VCPU=CPUS, such as 0=0,1=1-2,4")]
    Syntax(String),
    /// A list of processors without a vCPU before it.
    #[error("{0:?}: no vCPU is named before it: write VCPU=CPUS, such as 0=0,1=1-2,4")]
    Nobody(String),
    /// A number that no host has.
    #[error("{0}: numbers end at {most}", most = Affinity::LAST)]
    Large(u32),
}

impl Affinity {
    /// The largest number of a processor or a vCPU.
    pub const LAST: u32 = 8191;

    /// Whether all vCPUs run anywhere.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The processors of vCPU number `vcpu` (by its place, counted from 0), if it is bound to any.
    pub fn of(&self, vcpu: u32) -> Option<&BTreeSet<u32>> {
        self.0.get(&vcpu)
    }

    /// Checks it against a machine of `vcpus` on a host where `usable` processors can be used.
    ///
    /// # Errors
    /// What is wrong, in one line.
    pub fn check(&self, vcpus: u32, usable: &BTreeSet<u32>) -> Result<(), String> {
        for (vcpu, cpus) in &self.0 {
            if *vcpu >= vcpus {
                return Err(format!("there is no vCPU {vcpu}: they are 0 to {}", vcpus.saturating_sub(1)));
            }
            if let Some(cpu) = cpus.difference(usable).next() {
                return Err(format!("vCPU {vcpu} on processor {cpu}: this process may use {}", list(usable)));
            }
        }
        Ok(())
    }
}

/// `0-3,8`.
fn list(numbers: &BTreeSet<u32>) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for n in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *n => *last = *n,
            _ => parts.push((*n, *n)),
        }
    }
    let text = |(first, last): &(u32, u32)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    parts.iter().map(text).collect::<Vec<_>>().join(",")
}

fn range(text: &str) -> Result<std::ops::RangeInclusive<u32>, AffinityError> {
    let wrong = || AffinityError::Syntax(text.into());
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.trim().parse::<u32>().map_err(|_| wrong());
    let (first, last) = (number(first)?, number(last)?);
    match (first <= last, last <= Affinity::LAST) {
        (true, true) => Ok(first..=last),
        (false, _) => Err(wrong()),
        (_, false) => Err(AffinityError::Large(last)),
    }
}

impl FromStr for Affinity {
    type Err = AffinityError;

    fn from_str(text: &str) -> Result<Self, AffinityError> {
        let mut bound: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        let mut vcpus = None;
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let cpus = match item.split_once('=') {
                Some((named, cpus)) => {
                    vcpus = Some(range(named)?);
                    cpus
                }
                None => item,
            };
            let cpus = range(cpus)?;
            for vcpu in vcpus.clone().ok_or_else(|| AffinityError::Nobody(item.into()))? {
                bound.entry(vcpu).or_default().extend(cpus.clone());
            }
        }
        Ok(Self(bound))
    }
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.0.iter().map(|(vcpu, cpus)| format!("{vcpu}={}", list(cpus))).collect();
        f.write_str(&parts.join(","))
    }
}

impl Serialize for Affinity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Affinity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn affinity(text: &str) -> Result<String, String> {
        text.parse::<Affinity>().map(|a| a.to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn vcpus_and_processors_are_numbers_and_ranges() {
        for (text, written) in [
            ("0=0", "0=0"),
            ("0=0,1=1-2,4", "0=0,1=1-2,4"),
            ("0-1=2-3", "0=2-3,1=2-3"),
            ("1=3, 1=2", "1=2-3"),
            ("", ""),
            ("3=5,4,6-8", "3=4-8"),
        ] {
            assert_eq!(affinity(text), Ok(written.into()), "{text}");
        }
        for text in ["x", "0=", "=1", "0=1-", "0=2-1", "1-0=1", "0=1=2", "-1=0", "1"] {
            assert!(affinity(text).unwrap_err().contains("VCPU=CPUS"), "{text}");
        }
        assert_eq!(affinity("0=0-4294967295"), Err("4294967295: numbers end at 8191".into()));
    }

    #[test]
    fn what_the_host_or_the_machine_lacks_is_named() {
        let usable = BTreeSet::from([0, 1, 2, 6]);
        let check = |text: &str| text.parse::<Affinity>().unwrap().check(2, &usable);
        assert_eq!(check("0=0-2,1=6"), Ok(()));
        assert_eq!(check("2=0"), Err("there is no vCPU 2: they are 0 to 1".into()));
        assert_eq!(check("1=2-3"), Err("vCPU 1 on processor 3: this process may use 0-2,6".into()));
    }
}
