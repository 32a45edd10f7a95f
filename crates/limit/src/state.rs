use crate::bucket::TOKEN;
use crate::{LimitGroup, Limiter};
use drystone_state::{Persist, RestoreError, SaveError, Schema};
use serde::{Deserialize, Serialize};

/// What a [`Limiter`] has saved up, in billionths of a byte and of an operation. Rates are configuration and are not
/// part of it; what the restored limiter's burst does not hold is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimiterState {
    bandwidth: Saved,
    operations: Saved,
}

/// A number of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    whole: u64,
    billionths: u32,
}

impl Schema for LimiterState {
    const KIND: &'static str = "limiter";
    const VERSION: u32 = 1;
}

impl Persist for LimitGroup {
    type State = LimiterState;

    fn save(&self) -> Result<LimiterState, SaveError> {
        let inner = self.now();
        let saved = |amount: u128| Saved {
            whole: u64::try_from(amount / TOKEN).unwrap_or(u64::MAX),
            billionths: u32::try_from(amount % TOKEN).unwrap_or(0),
        };
        Ok(LimiterState {
            bandwidth: saved(inner.bandwidth.saved()),
            operations: saved(inner.operations.saved()),
        })
    }

    fn restore(&self, state: LimiterState) -> Result<(), RestoreError> {
        let LimiterState { bandwidth, operations } = state;
        for Saved { billionths, .. } in [bandwidth, operations] {
            if u128::from(billionths) >= TOKEN {
                let cause = format!("{billionths} billionths of a token are more than one");
                return Err(RestoreError::Invalid { kind: LimiterState::KIND, cause });
            }
        }
        let amount = |s: Saved| u128::from(s.whole) * TOKEN + u128::from(s.billionths);
        let mut inner = self.now();
        inner.bandwidth.set_saved(amount(bandwidth));
        inner.operations.set_saved(amount(operations));
        Ok(())
    }
}

/// Of the group that it is in, which for one that is alone is its own.
impl Persist for Limiter {
    type State = LimiterState;

    fn save(&self) -> Result<LimiterState, SaveError> {
        self.group().save()
    }

    fn restore(&self, state: LimiterState) -> Result<(), RestoreError> {
        self.group().restore(state)
    }
}
