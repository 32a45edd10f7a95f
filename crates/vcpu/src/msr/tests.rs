use super::*;
use crate::MsrHandler;
use drystone_state::{Component, Persist};
use std::collections::BTreeMap;
use std::sync::Arc;

fn policy(rules: &[(&str, MsrRule)]) -> MsrPolicy {
    let mut policy = MsrPolicy::new();
    for (range, rule) in rules {
        policy.push(range.parse().unwrap(), *rule).unwrap();
    }
    policy
}

fn handed_over(policy: &MsrPolicy) -> Vec<(u32, u32)> {
    policy.filter().ranges.iter().map(|r| (r.first, r.last)).collect()
}

/// Of a machine with vCPUs 0 and 5.
fn bank(policy: MsrPolicy) -> MsrBank {
    MsrBank::new(Arc::new(policy), [0, 5])
}

use MsrRule::{Allow, Deny, Emulate};

#[test]
fn ranges_are_read_as_they_are_written() {
    for (text, first, last, written) in
        [("0x10a", 0x10a, 0x10a, "0x10a"), ("16", 16, 16, "0x10"), ("0x10 - 0x1f", 16, 31, "0x10-0x1f")]
    {
        let range: MsrRange = text.parse().unwrap();
        assert_eq!((range.first(), range.last(), range.to_string().as_str()), (first, last, written));
    }
    for text in ["", "0x", "-1", "+1", "x", "0x1-", "0x100000000", "1-2-3", "0x+1"] {
        assert!(text.parse::<MsrRange>().unwrap_err().to_string().contains("is no MSR"), "{text}");
    }
    assert_eq!("2-1".parse::<MsrRange>().unwrap_err().to_string(), "MSRs 2-1: the first is behind the last");
}

#[test]
fn the_first_rule_counts_and_the_filter_agrees() {
    let policy = policy(&[("0x20", Allow), ("0x10-0x2f", Deny), ("0x28-0x3f", Emulate(7)), ("0x40", Deny)]);
    assert_eq!(handed_over(&policy), [(0x10, 0x1f), (0x21, 0x40)]);
    let bank = bank(policy);
    assert_eq!((bank.read(0, 0x10), bank.read(0, 0x2f), bank.read(5, 0x30)), (None, None, Some(7)));
    assert!(!bank.write(0, 0x11, 1) && bank.write(0, 0x30, 9) && !bank.write(0, 0x99, 1));
    assert_eq!((bank.read(0, 0x30), bank.read(5, 0x30), bank.read(1, 0x30)), (Some(9), Some(7), None));
    let counts: Vec<_> =
        bank.counts().into_iter().map(|c| (c.registers, c.action, c.reads, c.writes)).collect();
    let expected = [("0x10-0x2f", "deny", 2, 1), ("0x28-0x3f", "emulate", 4, 1), ("unknown", "deny", 0, 1)];
    assert_eq!(
        counts,
        expected.map(|(registers, action, r, w)| (registers.to_owned(), action.to_owned(), r, w))
    );
}

#[test]
fn the_ends_of_all_numbers_are_no_special_case() {
    let policy = policy(&[("0xfffffff0-0xfffffff7", Allow), ("0xffffff00-0xffffffff", Deny), ("0", Deny)]);
    assert_eq!(handed_over(&policy), [(0, 0), (0xffff_ff00, 0xffff_ffef), (0xffff_fff8, 0xffff_ffff)]);
}

#[test]
fn a_bank_is_reset_saved_and_restored() {
    let bank = bank(policy(&[("0x30-0x31", Emulate(7))]));
    assert!(bank.write(5, 0x31, 1));
    let saved = Persist::save(&bank).unwrap();
    assert_eq!(saved.values, BTreeMap::from([(5, BTreeMap::from([(0x31, 1)]))]));
    bank.reset().unwrap();
    assert_eq!(bank.read(5, 0x31), Some(7));
    assert!(bank.write(0, 0x30, 3));
    Persist::restore(&bank, drystone_testkit::as_written(&saved)).unwrap();
    assert_eq!((bank.read(5, 0x31), bank.read(0, 0x30)), (Some(1), Some(7)), "all of it, and nothing else");
    for (vcpu, msr, why) in [(5, 0x32, "vCPU 5: MSR 0x32 is not emulated here"), (1, 0x30, "no vCPU 1")] {
        let state = MsrBankState { values: BTreeMap::from([(vcpu, BTreeMap::from([(msr, 5)]))]) };
        let error = Persist::restore(&bank, state).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    assert_eq!(bank.read(5, 0x31), Some(1), "nothing changed");
}

#[test]
fn what_cannot_be_is_refused() {
    let push = |range: &str, rule| {
        let mut policy = MsrPolicy::new();
        policy.push(range.parse().unwrap(), rule).map(|_| ()).map_err(|e| e.to_string())
    };
    assert!(push("0x7ff-0x800", Deny).unwrap_err().contains("are the local APIC's"));
    assert!(push("0x8ff", Emulate(0)).unwrap_err().contains("are the local APIC's"));
    assert!(push("0x800-0x8ff", Allow).is_ok());
    assert!(push("0x10000-0x12fff", Deny).is_ok() && push("0-0xffffffff", Allow).is_ok());
    assert!(push("0x10000-0x13000", Deny).unwrap_err().contains("at most 12288"));
    assert_eq!(handed_over(&policy(&[("0x10000-0x12fff", Deny), ("0x13000", Deny)])).len(), 2, "not joined");
    assert!(push("0x10000-0x103ff", Emulate(0)).is_ok());
    assert!(push("0x10000-0x10400", Emulate(0)).unwrap_err().contains("at most 1024 may be emulated"));
    let mut many = MsrPolicy::new();
    for n in 0..MsrPolicy::MAX_RULES as u32 {
        many.push(MsrRange::new(n, n).unwrap(), Deny).unwrap();
    }
    assert!(many.push(MsrRange::new(0x1000, 0x1000).unwrap(), Deny).is_err());
}

#[test]
fn a_table_says_the_same_and_the_closer_rule_counts() {
    let text = "\"0x10-0x1f\" = \"deny\"\n\"0x12\" = { emulate = 5 }\n\"0x13\" = \"allow\"\n";
    let policy: MsrPolicy = toml::from_str(text).unwrap();
    assert_eq!(handed_over(&policy), [(0x10, 0x12), (0x14, 0x1f)]);
    assert_eq!(bank(policy.clone()).read(0, 0x12), Some(5));
    assert_eq!(toml::from_str::<MsrPolicy>(&toml::to_string(&policy).unwrap()), Ok(policy));
    let error = toml::from_str::<MsrPolicy>("\"0x800\" = \"deny\"").unwrap_err().to_string();
    assert!(error.contains("local APIC"), "{error}");
    assert!(toml::from_str::<MsrPolicy>("\"0x80\" = \"maybe\"").is_err());
}

#[test]
fn the_defaults_answer_what_the_hypervisor_does_not_know_and_take_nothing_from_it() {
    let defaults = MsrPolicy::new().with_defaults();
    assert_eq!((handed_over(&defaults), defaults.filter().hand_over_unknown), (vec![], true));
    let mut mine = policy(&[("0xc001001a", Deny)]).with_defaults().with_defaults();
    mine.push(MsrRange::new(0x10, 0x10).unwrap(), Deny).unwrap();
    assert_eq!(handed_over(&mine), [(0x10, 0x10), (0xc001_001a, 0xc001_001a)]);
    let bank = bank(mine);
    assert_eq!((bank.read(0, 0xc001_001a), bank.read(0, 0xc001_001d)), (None, Some(0)), "mine come first");
    assert_eq!(bank.read(0, 0x10), None);
}
