use super::ConfigError;
use super::affinity::Affinity;
use super::file::read_toml;
use drystone_vcpu::cpuid::{Baseline, CpuModel, FeatureSettings, Topology};
use drystone_vcpu::msr::MsrPolicy;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Nobody waits longer for a processor to be woken.
const MAX_HALT_POLL_US: u32 = 1_000_000;

/// What virtual CPUs are, beyond their number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CpuConfig {
    /// Which of the host's features they have.
    pub model: ModelChoice,
    /// How wide guest-physical addresses are; as wide as the host's unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub physical_bits: Option<u8>,
    /// How long a vCPU that halts keeps its processor busy in the hope of an interrupt, in microseconds: less delay for
    /// more work. As the host is set unless given; 0 is not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub halt_poll_us: Option<u32>,
    /// On which of the host's processors they run.
    #[serde(skip_serializing_if = "Affinity::is_empty")]
    pub affinity: Affinity,
    /// What is wanted of single features beyond the model.
    #[serde(skip_serializing_if = "FeatureSettings::is_empty")]
    pub features: FeatureSettings,
    /// Rules for model-specific registers.
    #[serde(skip_serializing_if = "MsrPolicy::is_empty")]
    pub msrs: MsrPolicy,
}

/// A named baseline, or a file that describes a model. A name with a slash or a `.toml` at its end is a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelChoice {
    /// One of those that are built in, by a name that may be wrong: [`CpuConfig::resolve`] says so.
    Named(String),
    /// A [`ModelFile`].
    File(PathBuf),
}

/// A CPU model in a file of its own, for several machines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelFile {
    /// What it begins with.
    pub baseline: Baseline,
    /// How wide guest-physical addresses are; as wide as the host's unless given.
    pub physical_bits: Option<u8>,
    /// What is wanted of single features beyond that.
    pub features: FeatureSettings,
    /// Rules for model-specific registers, after those of the machine.
    pub msrs: MsrPolicy,
}

impl Default for ModelChoice {
    fn default() -> Self {
        Self::Named(Baseline::Host.to_string())
    }
}

impl FromStr for ModelChoice {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let is_file = text.contains('/') || text.ends_with(".toml");
        Ok(if is_file { Self::File(text.into()) } else { Self::Named(text.into()) })
    }
}

impl Serialize for ModelChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Named(name) => serializer.serialize_str(name),
            Self::File(path) => path.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ModelChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Ok(choice) = String::deserialize(deserializer)?.parse();
        Ok(choice)
    }
}

impl CpuConfig {
    /// Checks what can be checked without touching the host.
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if let Some(us) = self.halt_poll_us.filter(|us| *us > MAX_HALT_POLL_US) {
            let what = format!("{us} microseconds: must be at most {MAX_HALT_POLL_US}");
            return Err(ConfigError::Value { field: "cpu.halt_poll_us", what });
        }
        match &self.model {
            ModelChoice::Named(name) => baseline(name).map(drop),
            ModelChoice::File(_) => Ok(()),
        }
    }

    /// The model of vCPUs so grouped, and the rules for their registers. Reads the model's file, if it is in one.
    ///
    /// # Errors
    /// [`ConfigError`] for a model that is unknown, or a file that cannot be read.
    pub fn resolve(&self, topology: Topology) -> Result<(CpuModel, MsrPolicy), ConfigError> {
        let ModelFile { baseline, physical_bits, mut features, msrs } = match &self.model {
            ModelChoice::Named(name) => ModelFile { baseline: baseline(name)?, ..ModelFile::default() },
            ModelChoice::File(path) => ModelFile::read(path)?,
        };
        features.extend(&self.features);
        let mut model = CpuModel::with_topology(topology);
        (model.baseline, model.features) = (baseline, features);
        model.physical_bits = self.physical_bits.or(physical_bits);
        let mut policy = self.msrs.clone();
        for (range, rule) in msrs.rules() {
            policy
                .push(*range, *rule)
                .map_err(|e| ConfigError::Value { field: "cpu.msrs", what: e.to_string() })?;
        }
        Ok((model, policy.with_defaults()))
    }

    /// Makes paths relative to the file at `base`.
    pub(super) fn resolve_paths(&mut self, base: &Path) {
        if let ModelChoice::File(path) = &mut self.model {
            *path = base.join(&*path);
        }
    }
}

fn baseline(name: &str) -> Result<Baseline, ConfigError> {
    name.parse().map_err(|e| ConfigError::Value { field: "cpu.model", what: format!("{e}, or a file.toml") })
}

impl ModelFile {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// [`ConfigError::Read`], [`ConfigError::Parse`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        read_toml(path)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn resolved(text: &str) -> Result<(CpuModel, MsrPolicy), String> {
        let config = Config::from_toml(text).map_err(|(line, what)| format!("{line}: {what}"))?;
        config.cpu.resolve(Topology::single()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_table_says_what_vcpus_are() {
        let text = "[cpu]\nmodel = \"x86-64-v2\"\naffinity = \"0=0\"\n[cpu.features]\naes = \"require\"\navx2 = \"off\"\n\
                    [cpu.msrs]\n\"0x1a2\" = \"deny\"\n";
        let (model, msrs) = resolved(text).unwrap();
        assert_eq!(
            (model.baseline, model.features.to_string().as_str()),
            (Baseline::V2, "aes=require,-avx2")
        );
        assert_eq!(msrs.rules()[0].0.to_string(), "0x1a2");
        assert!(msrs.rules().len() > 1, "the defaults are behind it");
        let config = Config::from_toml(text).unwrap();
        assert_eq!(Config::from_toml(&config.to_toml()), Ok(config));
        assert_eq!(resolved("").unwrap().0, CpuModel::with_topology(Topology::single()));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let error = |text: &str| resolved(text).unwrap_err();
        assert!(
            error("[cpu]\nmodel = \"pentium\"")
                .starts_with("cpu.model: \"pentium\" is no CPU model: use host,")
        );
        assert!(error("[cpu.features]\nxyz = \"off\"").contains("\"xyz\" is no feature"));
        assert!(error("[cpu.features]\navx2 = \"maybe\"").contains("cpu.features.avx2"));
        assert!(error("[cpu.msrs]\n\"0x10\" = \"perhaps\"").contains("cpu.msrs"));
        assert!(error("[cpu]\naffinity = \"x\"").contains("cpu.affinity"));
        let long = Config::from_toml("[cpu]\nhalt_poll_us = 1000001").unwrap().cpu.validate().unwrap_err();
        assert_eq!(long.to_string(), "cpu.halt_poll_us: 1000001 microseconds: must be at most 1000000");
        assert!(error("[cpu]\nmodle = \"host\"").contains("unknown field `modle`"));
    }

    #[test]
    fn a_model_can_be_a_file_that_machines_share() {
        let dir = tempfile::tempdir().unwrap();
        let (model, machine) = (dir.path().join("fleet.toml"), dir.path().join("vm.toml"));
        std::fs::write(&model, "baseline = \"x86-64-v3\"\n[features]\nrdrand = \"on\"\naes = \"on\"\n")
            .unwrap();
        std::fs::write(&machine, "[cpu]\nmodel = \"fleet.toml\"\nfeatures = { aes = \"off\" }\n").unwrap();
        let config = Config::from_file(&machine).unwrap();
        let (resolved, _) = config.cpu.resolve(Topology::single()).unwrap();
        assert_eq!(
            (resolved.baseline, resolved.features.to_string().as_str()),
            (Baseline::V3, "-aes,+rdrand")
        );
        std::fs::write(&model, "baseline = \"x86-64-v3\"\nfeature = 1\n").unwrap();
        let error = config.cpu.resolve(Topology::single()).unwrap_err().to_string();
        assert!(error.contains("fleet.toml: line 2: unknown field `feature`"), "{error}");
    }
}
