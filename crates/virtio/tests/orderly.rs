//! Property tests: orderly drivers, paused and moved anywhere.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_testkit::virtio::{Address, Edges};
use drystone_testkit::virtio::{Echo, GuestOp, Ram, World, ops};
use drystone_virtio::{Host, Mmio, MmioConfig};
use proptest::prelude::*;
use std::sync::Arc;

fn config() -> MmioConfig {
    MmioConfig { base: 0xd000_0000, gsi: 5, index: 0, shared_memory: vec![] }
}
fn two_lanes(memory: &Ram, edges: Arc<Edges>, host: Host) -> Mmio<Ram> {
    Mmio::new(config(), Box::new(Echo::new(2, true)), memory.clone(), edges, host).unwrap()
}
fn one_lane(memory: &Ram, edges: Arc<Edges>, host: Host) -> Mmio<Ram> {
    Mmio::new(config(), Box::new(Echo::new(2, false)), memory.clone(), edges, host).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_request_is_answered_once_and_nothing_else_is_written(
        data in proptest::collection::vec(any::<u8>(), 0..3072),
        features: u64,
        size in 0u32..9,
        split: bool,
    ) {
        let make = if split { two_lanes } else { one_lane };
        World::new(make, features, 1 << size).run_orderly(&ops(&data));
    }

    #[test]
    fn whatever_a_guest_does_a_reset_makes_it_good(
        data in proptest::collection::vec(any::<u8>(), 0..3072),
        split: bool,
    ) {
        let make = if split { two_lanes } else { one_lane };
        World::new(make, u64::MAX, 16).run(&ops(&data));
    }
}

/// The streams do contain what they are meant to, and most of it takes effect.
#[test]
fn streams_are_not_empty_talk() {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    let noise: Vec<u8> = (0..16384).map(|_| next()).collect();
    let all = ops(&noise);
    assert!(all.len() > 500, "{} operations", all.len());
    assert!(all.iter().any(|op| matches!(op, GuestOp::Descriptor { addr: Address::Edge(_), .. })));
    let mut world = World::new(two_lanes, u64::MAX, 64);
    world.run_orderly(&all);
    assert!(world.answered() > 50, "{} answered", world.answered());
}
