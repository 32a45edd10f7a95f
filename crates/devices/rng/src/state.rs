use crate::Rng;
use drystone_limit::LimiterState;
use drystone_state::{Persist, RestoreError, SaveError, Schema};
use serde::{Deserialize, Serialize};

/// The saved state of a [`Rng`]. Requests are in its ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RngState {
    /// What the rate limits have saved up.
    pub limiter: LimiterState,
}

impl Schema for RngState {
    const KIND: &'static str = "virtio.rng";
    const VERSION: u32 = 1;
}

impl Persist for Rng {
    type State = RngState;

    fn save(&self) -> Result<RngState, SaveError> {
        Ok(RngState { limiter: self.limiter().save()? })
    }
    fn restore(&self, state: RngState) -> Result<(), RestoreError> {
        let RngState { limiter } = state;
        self.limiter().restore(limiter)
    }
}
