use super::MAX_CPUS;
use drystone_vcpu::cpuid::Topology;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// How many virtual CPUs there are, and how they are grouped. In a file either a table, or the number alone:
/// `cpus = 4`. What is not given follows from what is; with nothing but a number all are cores of one socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpusConfig {
    /// All of them, from 1 to [`MAX_CPUS`].
    pub count: Option<u32>,
    /// Sockets.
    pub sockets: Option<u32>,
    /// Cores in each socket.
    pub cores: Option<u32>,
    /// Threads on each core.
    pub threads: Option<u32>,
}

/// Why virtual CPUs cannot be grouped as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CpusError {
    /// None, or more than a machine may have.
    #[error("{0} virtual CPUs: must be 1 to {MAX_CPUS}")]
    Count(u64),
    /// The number is no product of what was given.
    #[error("{count} virtual CPUs cannot be made of {given}{}", example(.made))]
    Product {
        /// All of them.
        count: u32,
        /// What was given of sockets, cores and threads.
        given: String,
        /// What those make, if all were given.
        made: Option<u64>,
    },
    /// Zero of something.
    #[error("{0} is 0: must be at least 1")]
    Zero(&'static str),
    /// No number, or no field.
    #[error("{0:?}: write a number, and if need be fields, such as 8,sockets=2,cores=2,threads=2")]
    Syntax(String),
    /// A field given twice.
    #[error("{0} is given twice")]
    Twice(String),
}

fn example(made: &Option<u64>) -> String {
    made.map_or_else(|| ": the number is no multiple of that".into(), |n| format!(": they are {n}"))
}

impl From<u32> for CpusConfig {
    fn from(count: u32) -> Self {
        Self { count: Some(count), ..Self::default() }
    }
}

impl CpusConfig {
    /// The sockets, cores and threads that were meant. Given the number and some of them, the others follow: cores
    /// first, then sockets; threads are one unless given.
    ///
    /// # Errors
    /// [`CpusError`].
    pub fn topology(&self) -> Result<Topology, CpusError> {
        for (name, n) in self.parts() {
            if n == Some(0) {
                return Err(CpusError::Zero(name));
            }
        }
        let threads = self.threads.unwrap_or(1);
        let (sockets, cores) = match (self.count, self.sockets, self.cores) {
            (_, Some(sockets), Some(cores)) => (sockets, cores),
            (None, sockets, cores) => (sockets.unwrap_or(1), cores.unwrap_or(1)),
            (Some(count), sockets, None) => {
                let sockets = sockets.unwrap_or(1);
                (sockets, self.share(count, [sockets, threads])?)
            }
            (Some(count), None, Some(cores)) => (self.share(count, [cores, threads])?, cores),
        };
        let all = u64::from(sockets).saturating_mul(cores.into()).saturating_mul(threads.into());
        match self.count {
            Some(count) if !allowed(count.into()) => return Err(CpusError::Count(count.into())),
            Some(count) if u64::from(count) != all => return Err(self.no_product(count, Some(all))),
            _ if !allowed(all) => return Err(CpusError::Count(all)),
            _ => {}
        }
        // 32 vCPUs have their APIC IDs below 255 however they are grouped.
        Topology::new(sockets, cores, threads).map_err(|_| CpusError::Count(all))
    }

    /// What is left of `count` when it is divided by both.
    fn share(&self, count: u32, by: [u32; 2]) -> Result<u32, CpusError> {
        if !allowed(count.into()) {
            return Err(CpusError::Count(count.into()));
        }
        let [a, b] = by.map(u64::from);
        let divisor = a.saturating_mul(b);
        match u64::from(count) {
            all if all.is_multiple_of(divisor) => Ok(count / u32::try_from(divisor).unwrap_or(u32::MAX)),
            _ => Err(self.no_product(count, None)),
        }
    }

    fn no_product(&self, count: u32, made: Option<u64>) -> CpusError {
        let given = self.parts().into_iter().filter_map(|(name, n)| Some(format!("{name}={}", n?)));
        CpusError::Product { count, given: given.collect::<Vec<_>>().join(", "), made }
    }

    fn parts(&self) -> [(&'static str, Option<u32>); 3] {
        [("sockets", self.sockets), ("cores", self.cores), ("threads", self.threads)]
    }

    fn part_mut(&mut self, name: &str) -> Option<&mut Option<u32>> {
        match name {
            "count" => Some(&mut self.count),
            "sockets" => Some(&mut self.sockets),
            "cores" => Some(&mut self.cores),
            "threads" => Some(&mut self.threads),
            _ => None,
        }
    }
}

fn allowed(count: u64) -> bool {
    (1..=u64::from(MAX_CPUS)).contains(&count)
}

impl FromStr for CpusConfig {
    type Err = CpusError;

    /// The flag's form: `4`, `8,sockets=2,cores=2,threads=2`, `sockets=2,cores=4`.
    fn from_str(text: &str) -> Result<Self, CpusError> {
        let mut cpus = Self::default();
        for item in text.split(',').map(str::trim) {
            let (name, number) = item.split_once('=').unwrap_or(("count", item));
            let syntax = || CpusError::Syntax(item.into());
            let number = number.parse().map_err(|_| syntax())?;
            let part = cpus.part_mut(name).ok_or_else(syntax)?;
            if part.replace(number).is_some() {
                return Err(CpusError::Twice(name.into()));
            }
        }
        Ok(cpus)
    }
}

/// The table form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sockets: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cores: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<u32>,
}

impl Serialize for CpusConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { count, sockets, cores, threads } = *self;
        match (count, sockets, cores, threads) {
            (None, None, None, None) => serializer.serialize_u32(1),
            (Some(count), None, None, None) => serializer.serialize_u32(count),
            _ => Table { count, sockets, cores, threads }.serialize(serializer),
        }
    }
}

struct NumberOrTable;

impl<'de> Visitor<'de> for NumberOrTable {
    type Value = CpusConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, or a table with count, sockets, cores and threads")
    }
    fn visit_u64<E: Error>(self, count: u64) -> Result<CpusConfig, E> {
        let number = || E::invalid_value(Unexpected::Unsigned(count), &self);
        u32::try_from(count).map(CpusConfig::from).map_err(|_| number())
    }
    fn visit_i64<E: Error>(self, count: i64) -> Result<CpusConfig, E> {
        let number = || E::invalid_value(Unexpected::Signed(count), &self);
        u32::try_from(count).map(CpusConfig::from).map_err(|_| number())
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<CpusConfig, A::Error> {
        let Table { count, sockets, cores, threads } = Table::deserialize(MapAccessDeserializer::new(map))?;
        Ok(CpusConfig { count, sockets, cores, threads })
    }
}

impl<'de> Deserialize<'de> for CpusConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOrTable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sockets, cores, threads; or what is wrong.
    fn shape(text: &str) -> Result<(u32, u32, u32), String> {
        let topology = text.parse::<CpusConfig>().and_then(|c| c.topology()).map_err(|e| e.to_string())?;
        Ok((topology.sockets(), topology.cores_per_socket(), topology.threads_per_core()))
    }

    #[test]
    fn what_is_not_given_follows() {
        let cases = [
            ("1", (1, 1, 1)),
            ("4", (1, 4, 1)),
            ("8,sockets=2,cores=2,threads=2", (2, 2, 2)),
            ("8, threads=2, sockets=2", (2, 2, 2)),
            ("8,cores=2", (4, 2, 1)),
            ("8,cores=2,threads=2", (2, 2, 2)),
            ("8,sockets=4", (4, 2, 1)),
            ("8,threads=2", (1, 4, 2)),
            ("sockets=2,cores=3", (2, 3, 1)),
            ("threads=2", (1, 1, 2)),
            ("count=6,sockets=3", (3, 2, 1)),
            ("32,sockets=32", (32, 1, 1)),
        ];
        for (text, expected) in cases {
            assert_eq!(shape(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_does_not_match_is_one_clear_error() {
        let cases = [
            ("0", "0 virtual CPUs: must be 1 to 32"),
            ("33", "33 virtual CPUs: must be 1 to 32"),
            ("sockets=2,cores=17", "34 virtual CPUs: must be 1 to 32"),
            ("sockets=65536,cores=65536,threads=65536", "281474976710656 virtual CPUs: must be 1 to 32"),
            (
                "8,sockets=2,cores=2,threads=1",
                "8 virtual CPUs cannot be made of sockets=2, cores=2, threads=1: they are 4",
            ),
            ("8,sockets=3", "8 virtual CPUs cannot be made of sockets=3: the number is no multiple of that"),
            ("4,cores=8", "4 virtual CPUs cannot be made of cores=8: the number is no multiple of that"),
            ("4,threads=0", "threads is 0: must be at least 1"),
            ("4,cores=2,cores=2", "cores is given twice"),
            ("4,5", "count is given twice"),
        ];
        for (text, expected) in cases {
            assert_eq!(shape(text), Err(expected.into()), "{text}");
        }
        for text in ["", "four", "4,", "4,dies=2", "-1", "cores", "4294967296"] {
            assert!(shape(text).unwrap_err().contains("such as 8,sockets=2"), "{text}");
        }
    }
}
