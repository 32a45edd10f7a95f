//! Replays the fuzzers' corpus: seeds, and every input that ever broke something.
use drystone_testkit::fuzz;

#[test]
fn serial_corpus() {
    assert!(fuzz::replay("serial", fuzz::serial) > 0, "the corpus is empty");
}

#[test]
fn i8042_corpus() {
    assert!(fuzz::replay("i8042", fuzz::i8042) > 0, "the corpus is empty");
}
