//! Replays the fuzzer's corpus: seeds, and every input that ever broke something. And random inputs, the same each time.
use drystone_testkit::fuzz;

#[test]
fn pci_corpus() {
    assert!(fuzz::replay("pci", fuzz::pci) > 0, "the corpus is empty");
}

#[test]
fn random_steps_keep_every_promise() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..20 {
        let byte = |_| {
            // xorshift64*
            seed ^= seed >> 12;
            seed ^= seed << 25;
            seed ^= seed >> 27;
            (seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
        };
        let input: Vec<u8> = (0..1000).map(byte).collect();
        fuzz::pci(&input);
    }
}
