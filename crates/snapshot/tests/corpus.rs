//! Replays the fuzzer's corpus: seeds, and every input that ever broke something.
use drystone_testkit::fuzz;

#[test]
fn snapshot_corpus() {
    assert!(fuzz::replay("snapshot", fuzz::snapshot) > 0, "the corpus is empty");
}
