//! Random guests, held against an image in memory.
use drystone_block::EngineKind;
use drystone_testkit::block::engine_or_threads;
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

proptest! {
    // Each request has other threads of the host take part.
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_byte_is_as_it_should_be_with_threads(data in prop::collection::vec(any::<u8>(), 0..1200)) {
        fuzz::block_on(EngineKind::Threads, &data);
    }

    #[test]
    fn every_byte_is_as_it_should_be_with_io_uring(data in prop::collection::vec(any::<u8>(), 0..1200)) {
        fuzz::block_on(engine_or_threads(EngineKind::IoUring), &data);
    }
}

#[test]
fn the_fuzz_corpus_holds() {
    assert!(fuzz::replay("block", fuzz::block) > 4);
    for engine in [EngineKind::Threads, engine_or_threads(EngineKind::IoUring)] {
        fuzz::replay("block", |data| fuzz::block_on(engine, data));
    }
}
