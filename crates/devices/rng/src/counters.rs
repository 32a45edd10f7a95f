use drystone_observe::{Counter, Observe, Visitor};

/// What an entropy device has done since it was built.
#[derive(Debug, Default)]
pub struct RngCounters {
    /// Requests answered.
    pub requests: Counter,
    /// Random bytes given to the guest.
    pub bytes: Counter,
    /// Reads of the source that failed.
    pub errors: Counter,
    /// Requests that had to wait for a rate limit.
    pub throttled: Counter,
}

impl Observe for RngCounters {
    fn observe(&self, to: &mut Visitor<'_>) {
        let Self { requests, bytes, errors, throttled } = self;
        to.count("requests", requests.get());
        to.count("bytes", bytes.get());
        to.count("errors", errors.get());
        to.count("throttled", throttled.get());
    }
}
