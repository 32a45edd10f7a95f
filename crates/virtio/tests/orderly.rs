//! Property tests: orderly drivers, paused and moved anywhere.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_testkit::virtio::{
    Address, Echo, Edges, GuestOp, Make, MmioPort, PciPort, Plugged, Ram, World, ops, same_over_mmio_and_pci,
    vectors,
};
use drystone_virtio::{Host, Mmio, MmioConfig, Pci, Unwired};
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

fn on_pci(device: Echo, memory: &Ram, edges: Arc<Edges>, host: Host) -> Pci<Ram> {
    Pci::new(Box::new(device), memory.clone(), vectors(3, &edges), Arc::new(Unwired), host).unwrap()
}
fn two_lanes_on_pci(memory: &Ram, edges: Arc<Edges>, host: Host) -> Pci<Ram> {
    on_pci(Echo::new(2, true), memory, edges, host)
}
fn one_lane_on_pci(memory: &Ram, edges: Arc<Edges>, host: Host) -> Pci<Ram> {
    on_pci(Echo::new(2, false), memory, edges, host)
}

type Both = (Make<MmioPort<Ram>>, Make<PciPort<Ram>>);
const TWO_LANES: Both = (two_lanes, two_lanes_on_pci);
const ONE_LANE: Both = (one_lane, one_lane_on_pci);

fn orderly<P: Plugged>(make: Make<P>, features: u64, size: u16, ops: &[GuestOp]) {
    World::<P>::new(make, features, size).run_orderly(ops);
}
fn anything<P: Plugged>(make: Make<P>, ops: &[GuestOp]) {
    World::<P>::new(make, u64::MAX, 16).run(ops);
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
        let (mmio, pci) = if split { TWO_LANES } else { ONE_LANE };
        orderly::<MmioPort<Ram>>(mmio, features, 1 << size, &ops(&data));
        orderly::<PciPort<Ram>>(pci, features, 1 << size, &ops(&data));
    }

    #[test]
    fn whatever_a_guest_does_a_reset_makes_it_good(
        data in proptest::collection::vec(any::<u8>(), 0..3072),
        split: bool,
    ) {
        let (mmio, pci) = if split { TWO_LANES } else { ONE_LANE };
        anything::<MmioPort<Ram>>(mmio, &ops(&data));
        anything::<PciPort<Ram>>(pci, &ops(&data));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_accesses_to_virtio_pci_are_survived(data in proptest::collection::vec(any::<u8>(), 0..4096)) {
        drystone_testkit::fuzz::virtio_pci(&[&[2], &data[..]].concat());
    }

    #[test]
    fn a_driver_sees_no_difference_between_mmio_and_pci(
        data in proptest::collection::vec(any::<u8>(), 0..2048),
        features: u64,
        size in 0u32..9,
        split: bool,
        is_orderly: bool,
    ) {
        let both = if split { TWO_LANES } else { ONE_LANE };
        same_over_mmio_and_pci(both, features, 1 << size, &ops(&data), is_orderly);
    }
}

fn noise() -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..16384).map(|_| next()).collect()
}

/// The streams do contain what they are meant to, and most of it takes effect.
#[test]
fn streams_are_not_empty_talk() {
    let all = ops(&noise());
    assert!(all.len() > 500, "{} operations", all.len());
    assert!(all.iter().any(|op| matches!(op, GuestOp::Descriptor { addr: Address::Edge(_), .. })));
    let mut world = World::<MmioPort<Ram>>::new(two_lanes, u64::MAX, 64);
    world.run_orderly(&all);
    assert!(world.answered() > 50, "{} answered", world.answered());
}

/// A long stream, in which the device does answer.
#[test]
fn a_long_stream_is_the_same_over_mmio_and_pci() {
    let answered = same_over_mmio_and_pci(TWO_LANES, u64::MAX, 64, &ops(&noise()), true);
    assert!(answered > 50, "{answered} answered");
}
