use super::range::{MsrRange, MsrRangeError};
use drystone_hypervisor::{MsrAccess, MsrAction, MsrFilter};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// What becomes of a guest's access to a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MsrRule {
    /// The hypervisor answers.
    Allow,
    /// The guest gets a general protection fault, as from a register that does not exist.
    Deny,
    /// The register is a memory cell of the vCPU: it reads as this at first, and then as what the guest wrote.
    Emulate(u64),
}

/// Rules for model-specific registers, as data. The first rule that names a register counts. A register that no rule
/// names is the hypervisor's; one that the hypervisor does not know is denied, and counted.
///
/// In a file a table: `{ "0x10a" = "deny", "0xc0010000-0xc0010007" = { emulate = 0 } }`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MsrPolicy {
    rules: Vec<(MsrRange, MsrRule)>,
    /// So many rules at the end are the defaults, and are asked only about what the hypervisor does not know.
    defaults: usize,
}

/// Why a policy makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MsrPolicyError {
    /// No range.
    #[error(transparent)]
    Range(#[from] MsrRangeError),
    /// A register of a local APIC in x2APIC mode.
    #[error("MSRs {0}: those from 0x800 to 0x8ff are the local APIC's, which only the hypervisor can answer")]
    Apic(MsrRange),
    /// More emulated registers than a vCPU holds.
    #[error("MSRs {0}: at most {most} may be emulated", most = MsrPolicy::MAX_EMULATED)]
    TooManyEmulated(MsrRange),
    /// More registers than KVM's filter takes as one range.
    #[error("MSRs {0}: a rule may deny or emulate at most {most}", most = MsrPolicy::MAX_RANGE)]
    TooMany(MsrRange),
    /// More rules than anybody writes.
    #[error("MSRs {0}: there are {most} rules already", most = MsrPolicy::MAX_RULES)]
    TooManyRules(MsrRange),
}

const APIC: MsrRange = MsrRange::of(0x800, 0x8ff);

/// For every guest, after its own rules, and only where the hypervisor has no answer: taking a register from KVM makes it
/// wait for a grace period, which is longer than all else that is done to make a VM.
const DEFAULT: &[(MsrRange, MsrRule)] = &[
    // TOP_MEM and TOP_MEM2 (AMD APM volume 2, 7.9.4): kernels read them unasked, and KVM does not know them. Zero means that
    // the firmware set no limit.
    (MsrRange::of(0xc001_001a, 0xc001_001a), MsrRule::Emulate(0)),
    (MsrRange::of(0xc001_001d, 0xc001_001d), MsrRule::Emulate(0)),
];

impl MsrPolicy {
    /// The most rules.
    pub const MAX_RULES: usize = 256;
    /// The most registers that one rule denies (kernel document virt/kvm/api, KVM_X86_SET_MSR_FILTER: a bitmap of
    /// 0x600 bytes).
    pub const MAX_RANGE: u64 = 0x600 * 8;
    /// The most registers that are emulated, because each vCPU keeps a value for each.
    pub const MAX_EMULATED: u64 = 1024;

    /// No rules.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a rule behind those that there are.
    ///
    /// # Errors
    /// [`MsrPolicyError`].
    pub fn push(&mut self, range: MsrRange, rule: MsrRule) -> Result<&mut Self, MsrPolicyError> {
        if rule != MsrRule::Allow && range.overlaps(&APIC) {
            return Err(MsrPolicyError::Apic(range));
        }
        if rule != MsrRule::Allow && range.count() > Self::MAX_RANGE {
            return Err(MsrPolicyError::TooMany(range));
        }
        if self.rules.len() >= Self::MAX_RULES {
            return Err(MsrPolicyError::TooManyRules(range));
        }
        if matches!(rule, MsrRule::Emulate(_)) && self.emulated() + range.count() > Self::MAX_EMULATED {
            return Err(MsrPolicyError::TooManyEmulated(range));
        }
        self.rules.insert(self.own().len(), (range, rule));
        Ok(self)
    }

    fn emulated(&self) -> u64 {
        let emulated = self.rules.iter().filter(|(_, rule)| matches!(rule, MsrRule::Emulate(_)));
        emulated.map(|(range, _)| range.count()).sum()
    }

    /// These rules, and behind them those that are good for every guest. They are asked only about registers that the
    /// hypervisor does not know.
    #[must_use]
    pub fn with_defaults(mut self) -> Self {
        if self.defaults == 0 {
            self.rules.extend(DEFAULT);
            self.defaults = DEFAULT.len();
        }
        self
    }

    /// The rules without the defaults.
    fn own(&self) -> &[(MsrRange, MsrRule)] {
        self.rules.get(..self.rules.len() - self.defaults).unwrap_or_default()
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// All rules, the first that counts first.
    pub fn rules(&self) -> &[(MsrRange, MsrRule)] {
        &self.rules
    }

    /// The number of the rule that a register falls under, and the rule.
    pub(super) fn rule(&self, index: u32) -> Option<(usize, MsrRule)> {
        let found = self.rules.iter().enumerate().find(|(_, (range, _))| range.contains(index));
        found.map(|(number, (_, rule))| (number, *rule))
    }

    /// What the hypervisor must hand over: whatever a rule other than the defaults denies or emulates, so that it is
    /// counted, and what it does not know. Ranges are disjoint, and as few as can be.
    pub fn filter(&self) -> MsrFilter {
        let mut filter = MsrFilter::default();
        filter.hand_over_unknown = true;
        filter.ranges = self
            .handed_over()
            .into_iter()
            .map(|range| drystone_hypervisor::MsrRange {
                first: range.first(),
                last: range.last(),
                access: MsrAccess::Both,
                action: MsrAction::HandOver,
            })
            .collect();
        filter
    }

    fn handed_over(&self) -> Vec<MsrRange> {
        let mut taken: Vec<MsrRange> = Vec::new();
        for (number, (range, rule)) in self.own().iter().enumerate() {
            if *rule == MsrRule::Allow {
                continue;
            }
            let mut left = vec![*range];
            for (before, _) in self.rules.iter().take(number) {
                left = left.into_iter().flat_map(|part| part.without(before)).collect();
            }
            taken.extend(left);
        }
        taken.sort();
        let mut merged: Vec<MsrRange> = Vec::new();
        for range in taken {
            match merged.last_mut() {
                Some(before)
                    if before.last().checked_add(1) == Some(range.first())
                        && before.count() + range.count() <= Self::MAX_RANGE =>
                {
                    *before = MsrRange::of(before.first(), range.last());
                }
                _ => merged.push(range),
            }
        }
        merged
    }
}

impl Serialize for MsrPolicy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.rules.iter().map(|(range, rule)| (range.to_string(), rule)))
    }
}

impl<'de> Deserialize<'de> for MsrPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = MsrPolicy;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of MSRs, each \"allow\", \"deny\" or { emulate = VALUE }")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MsrPolicy, A::Error> {
                let mut policy = MsrPolicy::new();
                while let Some((range, rule)) = map.next_entry::<String, MsrRule>()? {
                    let range = range.parse().map_err(A::Error::custom)?;
                    policy.push(range, rule).map_err(A::Error::custom)?;
                }
                // A table has no order: what is named more closely counts.
                policy.rules.sort_by_key(|(range, _)| range.count());
                Ok(policy)
            }
        }
        deserializer.deserialize_map(Table)
    }
}
