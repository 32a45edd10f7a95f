//! Random guests, held against an image in memory.
use drystone_testkit::fuzz;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..Default::default() })]

    /// Whatever a guest asks for, and wherever the machine is paused, moved, reset or throttled: every answer and every byte
    /// of the disk is as it should be.
    #[test]
    fn every_byte_is_as_it_should_be(data in prop::collection::vec(any::<u8>(), 0..1200)) {
        fuzz::block(&data);
    }
}

#[test]
fn the_fuzz_corpus_holds() {
    assert!(fuzz::replay("block", fuzz::block) > 4);
}
