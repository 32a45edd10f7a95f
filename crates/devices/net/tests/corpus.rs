//! Replays the fuzzers' corpus: seeds, and every input that ever broke something.
use drystone_testkit::fuzz;

#[test]
fn net_corpus() {
    assert!(fuzz::replay("net", fuzz::net) > 0, "the corpus is empty");
}

#[test]
fn passt_frames_corpus() {
    assert!(fuzz::replay("passt_frames", fuzz::passt_frames) > 0, "the corpus is empty");
}
