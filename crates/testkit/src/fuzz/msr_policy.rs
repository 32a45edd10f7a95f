//! Any rules for model-specific registers, and any accesses: the filter, the rules and the bank agree.

use super::input::Input;
use drystone_hypervisor::MsrAction;
use drystone_state::Persist;
use drystone_vcpu::MsrHandler;
use drystone_vcpu::msr::{MsrBank, MsrPolicy, MsrRange, MsrRule};
use std::sync::Arc;

const RULES: usize = 64;
const STEPS: usize = 256;
const VCPU: u32 = 3;

/// Reads rules from `data`, each a length, so many letters of a range, and an action; a length of zero ends them. The
/// rest is accesses.
///
/// # Panics
/// If the filter hands over what a rule allows, or one of the defaults names, or keeps what another rule takes; if its ranges overlap or are more than the
/// rules can make; if a register answers another value than was written; if a saved bank is not what it was.
pub fn msr_policy(data: &[u8]) {
    let mut input = Input::new(data);
    let own = policy(&mut input);
    let policy = Arc::new(own.clone().with_defaults());
    let filter = policy.filter();
    assert!(filter.ranges.windows(2).all(|w| w[0].last < w[1].first), "sorted, and apart");
    let edges = policy.rules().iter().flat_map(|(range, _)| {
        [range.first().wrapping_sub(1), range.first(), range.last(), range.last().wrapping_add(1)]
    });
    for index in edges.collect::<Vec<_>>() {
        let taken = !matches!(rule(&own, index), None | Some(MsrRule::Allow));
        assert_eq!(filter.action(index, false) == Some(MsrAction::HandOver), taken, "{index:#x}");
    }
    let bank = MsrBank::new(policy.clone(), [VCPU]);
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        let (place, value) = (usize::from(input.u8()), input.u64());
        // A register at the edge of some rule, or any.
        let index = policy.rules().get(place).map_or(value as u32, |(range, _)| range.last());
        let emulated = matches!(rule(&policy, index), Some(MsrRule::Emulate(_)));
        assert_eq!(bank.write(VCPU, index, value), emulated);
        assert_eq!(bank.read(VCPU, index), emulated.then_some(value));
        assert_eq!(bank.read(VCPU + 1, index), None, "no such vCPU");
    }
    assert!(bank.counts().len() <= policy.rules().len() + 1);
    let saved = Persist::save(&bank).expect("it can be saved");
    let copy = MsrBank::new(policy, [VCPU]);
    Persist::restore(&copy, saved.clone()).expect("a copy takes it");
    assert_eq!(Persist::save(&copy).expect("it can be saved"), saved);
}

fn rule(policy: &MsrPolicy, index: u32) -> Option<MsrRule> {
    policy.rules().iter().find(|(range, _)| range.contains(index)).map(|(_, rule)| *rule)
}

fn policy(input: &mut Input<'_>) -> MsrPolicy {
    let mut policy = MsrPolicy::new();
    for _ in 0..RULES {
        let letters = usize::from(input.u8());
        if letters == 0 {
            break;
        }
        let text = String::from_utf8_lossy(input.take(letters)).into_owned();
        let rule = match input.u8() % 3 {
            0 => MsrRule::Allow,
            1 => MsrRule::Deny,
            _ => MsrRule::Emulate(input.u64()),
        };
        let Ok(range) = text.parse::<MsrRange>() else { continue };
        assert_eq!(range.to_string().parse(), Ok(range));
        // What it refuses, it leaves as it was.
        let before = policy.clone();
        if policy.push(range, rule).is_err() {
            assert_eq!(policy, before);
        }
    }
    policy
}
