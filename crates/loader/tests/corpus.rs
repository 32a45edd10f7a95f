//! Replays the fuzzers' corpus: seeds, and every input that ever broke something.
use drystone_testkit::fuzz;

#[test]
fn loader_corpus() {
    assert!(fuzz::replay("loader", fuzz::loader) > 0, "the corpus is empty");
}

#[test]
fn boot_params_corpus() {
    assert!(fuzz::replay("boot_params", fuzz::boot_params) > 0, "the corpus is empty");
}
