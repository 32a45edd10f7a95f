//! Replays the fuzz corpus.

#[test]
fn the_fuzz_corpus_holds() {
    assert!(drystone_testkit::fuzz::replay("limit", drystone_testkit::fuzz::limit) > 4);
}
