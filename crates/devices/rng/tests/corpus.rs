//! Replays the fuzzer's corpus: seeds, and every input that ever broke something.
use drystone_testkit::fuzz;

#[test]
fn rng_corpus() {
    assert!(fuzz::replay("rng", fuzz::rng) > 0, "the corpus is empty");
}
