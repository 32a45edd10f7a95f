use drystone_limit::LimitConfig;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where random bytes come from. Absent settings take the values given here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RngConfig {
    /// A file to read from; `/dev/urandom`. It must not make a reader wait: `/dev/random` and `/dev/hwrng` may.
    pub source: PathBuf,
    /// How fast the guest is served: bytes given, and requests.
    pub limit: LimitConfig,
}

impl Default for RngConfig {
    fn default() -> Self {
        Self { source: "/dev/urandom".into(), limit: LimitConfig::default() }
    }
}

/// Why an entropy device could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RngError {
    /// The source cannot be opened.
    #[error("entropy device: cannot open {path}: {cause}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the host said.
        cause: std::io::Error,
    },
    /// No timer to be had.
    #[error("entropy device: cannot create a timer: {0}")]
    Timer(std::io::Error),
}
