//! Replays the fuzzers' corpus: seeds, and every input that ever broke something.
use drystone_testkit::fuzz;

#[test]
fn saved_state_corpus() {
    assert!(fuzz::replay("saved_state", fuzz::saved_state) > 0, "the corpus is empty");
}
