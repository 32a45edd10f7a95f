//! Replays the fuzz corpus, and inputs made from it by chance.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_testkit::fuzz;

#[test]
fn cpuid() {
    assert!(fuzz::replay("cpuid", fuzz::cpuid) > 0, "the corpus is empty");
    by_chance("cpuid", fuzz::cpuid);
}

#[test]
fn msr_policy() {
    assert!(fuzz::replay("msr_policy", fuzz::msr_policy) > 0, "the corpus is empty");
    by_chance("msr_policy", fuzz::msr_policy);
}

/// Changes some bytes of every file, always the same ones.
fn by_chance(target: &str, body: fn(&[u8])) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let corpus = format!("{}/../../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    for file in std::fs::read_dir(corpus).unwrap() {
        let data = std::fs::read(file.unwrap().path()).unwrap();
        for _ in 0..20 {
            let mut changed = data.clone();
            for _ in 0..next() % 16 {
                if let Some(byte) = changed.get_mut(next() % data.len().max(1)) {
                    *byte = next() as u8;
                }
            }
            body(&changed);
        }
    }
}
