use super::policy::{MsrPolicy, MsrRule};
use crate::MsrHandler;
use crate::counters::count;
use crate::set::lock;
use drystone_state::{Component, ComponentError, Persist, PersistDyn, RestoreError, SaveError, Schema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A machine's side of an [`MsrPolicy`]: answers what the hypervisor hands over, counts it, and holds the emulated
/// registers of every vCPU. They are a part of the machine's state.
#[derive(Debug)]
pub struct MsrBank {
    policy: Arc<MsrPolicy>,
    /// One a rule, and the last for registers without one: nothing here grows with what a guest does.
    counts: Vec<Pair>,
    /// By vCPU: of the emulated registers, those that the guest wrote.
    values: BTreeMap<u32, Mutex<Values>>,
}

type Values = BTreeMap<u32, u64>;

#[derive(Debug, Default)]
struct Pair {
    reads: AtomicU64,
    writes: AtomicU64,
}

/// How often guests met one rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MsrCount {
    /// The registers, as the policy writes them; `unknown` for those without a rule, which the hypervisor does not know.
    pub registers: String,
    /// `deny` or `emulate`.
    pub action: String,
    /// RDMSR.
    pub reads: u64,
    /// WRMSR.
    pub writes: u64,
}

impl MsrBank {
    /// For vCPUs with these numbers. Emulated registers are as the policy says.
    pub fn new(policy: Arc<MsrPolicy>, vcpus: impl IntoIterator<Item = u32>) -> Self {
        Self {
            counts: std::iter::repeat_with(Pair::default).take(policy.rules().len() + 1).collect(),
            policy,
            values: vcpus.into_iter().map(|id| (id, Mutex::default())).collect(),
        }
    }

    /// The rules that were met at all.
    pub fn counts(&self) -> Vec<MsrCount> {
        let rules = self.policy.rules().iter().map(|(range, rule)| (range.to_string(), action(*rule)));
        let named = rules.chain([("unknown".to_owned(), "deny")]).zip(&self.counts);
        let counts = named.map(|((registers, action), pair)| MsrCount {
            registers,
            action: action.into(),
            reads: pair.reads.load(Ordering::Relaxed),
            writes: pair.writes.load(Ordering::Relaxed),
        });
        counts.filter(|c| c.reads > 0 || c.writes > 0).collect()
    }

    /// What an emulated register was made with.
    fn emulated(&self, index: u32) -> Option<u64> {
        match self.policy.rule(index)?.1 {
            MsrRule::Emulate(value) => Some(value),
            // Also what was allowed, if the hypervisor does not know it.
            MsrRule::Allow | MsrRule::Deny => None,
        }
    }

    fn pair(&self, index: u32) -> Option<&Pair> {
        self.policy.rule(index).map_or(self.counts.last(), |(number, _)| self.counts.get(number))
    }
}

fn action(rule: MsrRule) -> &'static str {
    match rule {
        MsrRule::Allow | MsrRule::Deny => "deny",
        MsrRule::Emulate(_) => "emulate",
    }
}

impl MsrHandler for MsrBank {
    fn read(&self, vcpu: u32, index: u32) -> Option<u64> {
        if let Some(pair) = self.pair(index) {
            count(&pair.reads);
        }
        let first = self.emulated(index)?;
        Some(lock(self.values.get(&vcpu)?).get(&index).copied().unwrap_or(first))
    }

    fn write(&self, vcpu: u32, index: u32, value: u64) -> bool {
        if let Some(pair) = self.pair(index) {
            count(&pair.writes);
        }
        let Some(values) = self.values.get(&vcpu).filter(|_| self.emulated(index).is_some()) else {
            return false;
        };
        lock(values).insert(index, value);
        true
    }
}

impl Component for MsrBank {
    // It changes only while a vCPU asks it to.
    fn pause(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn resume(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn reset(&self) -> Result<(), ComponentError> {
        self.values.values().for_each(|values| lock(values).clear());
        Ok(())
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}

/// The saved state of an [`MsrBank`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MsrBankState {
    /// By vCPU: emulated registers that the guest wrote, by number.
    pub values: BTreeMap<u32, BTreeMap<u32, u64>>,
}

impl Schema for MsrBankState {
    const KIND: &'static str = "msrs";
    const VERSION: u32 = 1;
}

impl Persist for MsrBank {
    type State = MsrBankState;

    fn save(&self) -> Result<MsrBankState, SaveError> {
        let written = self.values.iter().map(|(id, values)| (*id, lock(values).clone()));
        Ok(MsrBankState { values: written.filter(|(_, values)| !values.is_empty()).collect() })
    }

    fn restore(&self, mut state: MsrBankState) -> Result<(), RestoreError> {
        let invalid = |cause: String| RestoreError::Invalid { kind: MsrBankState::KIND, cause };
        for (id, values) in &state.values {
            if !self.values.contains_key(id) {
                return Err(invalid(format!("this machine has no vCPU {id}")));
            }
            if let Some(msr) = values.keys().find(|index| self.emulated(**index).is_none()) {
                return Err(invalid(format!("vCPU {id}: MSR {msr:#x} is not emulated here")));
            }
        }
        for (id, values) in &self.values {
            *lock(values) = state.values.remove(id).unwrap_or_default();
        }
        Ok(())
    }
}
