use std::io;

/// Why there is no network device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// A setting makes no sense; says which, and what is allowed.
    #[error("network device `{id}`: {what}")]
    Config {
        /// The device.
        id: String,
        /// The setting and what is wrong with it.
        what: String,
    },
    /// The host gave no eventfd or timer.
    #[error("network device `{id}`: cannot make an event: {cause}")]
    Event {
        /// The device.
        id: String,
        /// What the host said.
        cause: io::Error,
    },
    /// The back end does not begin.
    #[error("network device `{id}`: cannot {attempt}: {cause}")]
    Backend {
        /// The device.
        id: String,
        /// What was tried.
        attempt: &'static str,
        /// What the host said.
        cause: io::Error,
    },
}
