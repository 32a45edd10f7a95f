//! Negotiation, the status machine, the configuration space, saved state.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use common::{BUFFER, Rig, rig};
use drystone_state::{Component, Persist, PersistDyn, RestoreError};
use drystone_testkit::virtio::{DriverRing, Echo, Hoard, Ram, ram};
use drystone_virtio::*;
use std::sync::Arc;

fn echo(memory: &Ram) -> Rig {
    rig(Box::new(Echo::new(2, true)), memory)
}
fn accept(rig: &Rig, features: u64) {
    rig.core.set_driver_features(false, features as u32);
    rig.core.set_driver_features(true, (features >> 32) as u32);
}
fn probe(rig: &Rig) {
    rig.core.set_status(ACKNOWLEDGE);
    rig.core.set_status(ACKNOWLEDGE | DRIVER);
}

#[test]
fn bits_are_taken_in_order_and_never_given_back() {
    let memory = ram(1 << 20);
    let rig = echo(&memory);
    for (write, read) in [(DRIVER, 0), (FEATURES_OK | DRIVER_OK, 0), (0x30, 0), (NEEDS_RESET, 0)] {
        rig.core.set_status(write);
        assert_eq!(rig.core.status(), read, "{write:#x}");
    }
    rig.core.set_status(ACKNOWLEDGE);
    rig.core.set_status(DRIVER | FEATURES_OK | DRIVER_OK);
    assert_eq!(
        rig.core.status(),
        ACKNOWLEDGE | DRIVER,
        "no features, no FEATURES_OK; without it no DRIVER_OK"
    );
    accept(&rig, F_VERSION_1);
    rig.core.set_status(FEATURES_OK);
    rig.core.set_status(ACKNOWLEDGE);
    assert_eq!(rig.core.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK, "writing fewer takes none away");
    rig.core.set_status(DRIVER_OK);
    rig.core.set_status(FAILED);
    assert_eq!(rig.core.status(), 0x8f);
    rig.core.set_status(0);
    assert_eq!((rig.core.status(), rig.core.driver_features()), (0, 0));
    assert!(rig.log.take().is_empty() && rig.edges.config() == 0);
}

#[test]
fn features_that_cannot_be_are_refused() {
    let memory = ram(1 << 20);
    let rig = echo(&memory);
    let offered = rig.core.features();
    assert_eq!(offered, 1 << 3 | F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1 | F_RING_RESET);
    for (features, good) in [
        (0, false),
        (F_EVENT_IDX, false), // a legacy driver
        (F_VERSION_1, true),
        (offered, true),
        (offered | 1, false),
        (F_VERSION_1 | 1 << 63, false),
    ] {
        rig.core.set_status(0);
        probe(&rig);
        accept(&rig, features);
        rig.core.set_status(FEATURES_OK);
        assert_eq!(rig.core.status() & FEATURES_OK != 0, good, "{features:#x}");
        accept(&rig, 0);
        assert_eq!(rig.core.driver_features(), if good { features } else { 0 }, "they are agreed on");
    }
}

#[test]
fn a_device_may_refuse_too() {
    struct Picky;
    impl Worker<Ram> for Picky {
        fn on_kick(&mut self, _: u16, _: &mut Cx<'_, Ram>) -> Result<(), Fault> {
            Ok(())
        }
    }
    impl VirtioDevice<Ram> for Picky {
        fn describe(&self) -> Description {
            Description { features: 3, ..Default::default() }
        }
        fn accept(&self, features: u64) -> bool {
            features & 3 != 1 // the second needs the first
        }
        fn reset(&mut self) {}
        fn persist(&self) -> Option<&dyn PersistDyn> {
            None
        }
    }
    let memory = ram(1 << 20);
    let rig = rig(Box::new(Picky), &memory);
    for (features, good) in [(1, false), (2, true), (3, true)] {
        rig.core.set_status(0);
        probe(&rig);
        accept(&rig, F_VERSION_1 | features);
        rig.core.set_status(FEATURES_OK);
        assert_eq!(rig.core.status() & FEATURES_OK != 0, good, "{features}");
    }
    assert!(Component::persist(&*rig.core).is_none(), "said before anything is paused");
}

#[test]
fn queues_are_set_up_between_features_ok_and_driver_ok() {
    let memory = ram(1 << 20);
    for reset in [false, true] {
        let rig = echo(&memory);
        let size = |queue| rig.core.queue(queue).unwrap().size;
        let change = |to| {
            rig.core.set_queue(0, |q| (q.size, q.max_size, q.enabled, q.resetting) = (to, 9, true, true));
            let q = rig.core.queue(0).unwrap();
            assert_eq!((q.max_size, q.resetting), (256, false), "not for a driver to set");
        };
        probe(&rig);
        accept(&rig, F_VERSION_1 | if reset { F_RING_RESET } else { 0 });
        change(16);
        rig.core.enable_queue(0);
        assert_eq!((size(0), rig.core.queue(0).unwrap().enabled), (256, false), "too early");
        rig.core.set_status(FEATURES_OK);
        change(16);
        assert_eq!((size(0), size(1)), (16, 256));
        rig.core.set_queue(0, |q| [q.descriptors, q.available, q.used] = [0x10000, 0x12000, 0x13000]);
        rig.core.enable_queue(0);
        change(32);
        assert_eq!(size(0), 16, "it is enabled");
        rig.core.set_status(DRIVER_OK);
        rig.core.set_queue(1, |q| {
            (q.size, [q.descriptors, q.available, q.used]) = (8, [0x20000, 0x22000, 0x23000])
        });
        rig.core.enable_queue(1);
        assert_eq!((size(1) == 8, rig.core.queue(1).unwrap().enabled), (reset, reset), "running");
        assert!(rig.core.queue(2).is_none());
        rig.core.reset_queue(2);
        rig.core.enable_queue(2);
        assert_eq!((rig.core.kick(2), rig.core.ready(7, 0)), (Next::Idle, Next::Idle));
        assert_eq!(rig.core.status() & NEEDS_RESET, 0);
    }
}

#[test]
fn the_configuration_space_takes_any_access_and_a_reset_clears_it() {
    let memory = ram(1 << 20);
    let rig = echo(&memory);
    rig.core.config_write(6, &[1, 2, 3, 4]);
    rig.core.config_write(8, &[9]);
    rig.core.config_write(u64::MAX, &[9, 9]);
    let mut out = [0xee; 6];
    rig.core.config_read(5, &mut out);
    assert_eq!(out, [0, 1, 2, 0, 0, 0]);
    rig.core.config_read(u64::MAX - 1, &mut out);
    assert_eq!(out, [0; 6]);
    rig.core.config_read(0, &mut []);
    rig.core.set_status(0);
    rig.core.config_read(6, &mut out);
    assert_eq!(out, [0; 6]);
}

#[test]
fn a_change_of_the_configuration_moves_the_generation_and_interrupts_a_running_driver() {
    let memory = ram(1 << 20);
    let device = common::Custom(|queue, cx: &mut Cx<'_, Ram>| {
        let mut any = false;
        let mut ring = cx.ring(queue)?;
        while let Some(chain) = ring.pop()? {
            ring.complete(chain, 0)?;
            any = true;
        }
        drop(ring);
        if any {
            cx.config_changed();
        }
        Ok(())
    });
    let rig = rig(Box::new(device), &memory);
    let mut d = DriverRing::new(&memory, 0x10000, 16, false);
    rig.bring_up(&[&d], 0);
    let before = rig.core.config_generation();
    d.add(&[BUFFER], false).unwrap();
    rig.kick(0);
    assert_eq!((rig.core.config_generation() - before, rig.edges.config()), (1, 1));
    rig.core.set_status(0);
    assert_eq!((rig.core.config_generation(), rig.edges.config()), (0, 1), "as it was built");
}

#[test]
fn kicks_before_driver_ok_are_held_and_not_lost() {
    let memory = ram(1 << 20);
    let rig = echo(&memory);
    let mut d = DriverRing::new(&memory, 0x10000, 16, false);
    probe(&rig);
    accept(&rig, F_VERSION_1);
    rig.core.set_status(FEATURES_OK);
    rig.core
        .set_queue(0, |q| (q.size, [q.descriptors, q.available, q.used]) = (16, [0x10000, 0x12000, 0x13000]));
    rig.core.enable_queue(0);
    d.add(&[BUFFER], false).unwrap();
    rig.kick(0);
    assert_eq!(d.used_index(), 0, "a device does not use buffers before DRIVER_OK");
    rig.core.set_status(DRIVER_OK);
    rig.serve();
    assert_eq!(d.take().unwrap().1, 1);
}

#[test]
fn a_device_that_contradicts_itself_is_refused() {
    struct Wrong(Description, Vec<Vec<u16>>);
    impl Worker<Ram> for Wrong {
        fn on_kick(&mut self, _: u16, _: &mut Cx<'_, Ram>) -> Result<(), Fault> {
            Ok(())
        }
    }
    impl VirtioDevice<Ram> for Wrong {
        fn describe(&self) -> Description {
            self.0.clone()
        }
        fn split(&mut self) -> Vec<(Vec<u16>, Box<dyn Worker<Ram>>)> {
            let worker = || Box::new(Wrong(Description::default(), vec![])) as Box<dyn Worker<Ram>>;
            self.1.drain(..).map(|queues| (queues, worker())).collect()
        }
        fn reset(&mut self) {}
        fn persist(&self) -> Option<&dyn PersistDyn> {
            None
        }
    }
    let memory = ram(1 << 20);
    let build = |features, sizes: &[u16], split: &[&[u16]]| {
        let description = Description { features, queue_sizes: sizes.to_vec(), ..Default::default() };
        let device = Wrong(description, split.iter().map(|q| q.to_vec()).collect());
        let host = Host::new(Arc::new(drystone_testkit::virtio::Pump::default()));
        let edges = Arc::new(drystone_testkit::virtio::Edges::default());
        VirtioCore::new(Box::new(device), memory.clone(), edges, host).err()
    };
    assert_eq!(build(0, &[16, 32768], &[&[1]]), None);
    assert_eq!(build(F_RING_RESET, &[16], &[]), Some(BuildError::Features { features: F_RING_RESET }));
    assert_eq!(build(0, &[16, 0], &[]), Some(BuildError::QueueSize { queue: 1, size: 0 }));
    assert_eq!(build(0, &[15], &[]), Some(BuildError::QueueSize { queue: 0, size: 15 }));
    assert_eq!(build(0, &[16], &[&[1]]), Some(BuildError::Split { queue: 1 }));
    assert_eq!(build(0, &[16, 16], &[&[1], &[0, 1]]), Some(BuildError::Split { queue: 1 }));
}

#[test]
fn a_saved_state_is_restored_whole_or_refused_whole() {
    let memory = ram(1 << 20);
    let rig = echo(&memory);
    let mut d = DriverRing::new(&memory, 0x10000, 16, false);
    rig.bring_up(&[&d], F_EVENT_IDX);
    for _ in 0..3 {
        d.add(&[BUFFER], false).unwrap();
    }
    rig.kick(0);
    assert!(rig.core.save().is_err(), "running");
    rig.core.pause().unwrap();
    let good = rig.core.save().unwrap();
    assert_eq!((good.queues[0].next_avail, good.queues[0].next_used, good.queues[0].used), (3, 3, 0x13000));

    type Change<'a> = &'a dyn Fn(&mut CoreState);
    let wrong: &[(&str, Change<'_>)] = &[
        ("device type", &|s| s.device_type = 2),
        ("too few queues", &|s| s.queues.truncate(1)),
        ("too many queues", &|s| s.queues.extend(s.queues.clone())),
        ("unknown status", &|s| s.status |= 0x10),
        ("status out of order", &|s| s.status = DRIVER_OK),
        ("features not offered", &|s| s.driver_features |= 1),
        ("no VERSION_1", &|s| s.driver_features = 0),
        ("enabled without features", &|s| s.status = ACKNOWLEDGE | DRIVER),
        ("in flight", &|s| s.queues[0].next_avail = 4),
        ("used before it started", &|s| s.queues[1].next_used = 1),
        ("positions without a ring", &|s| (s.queues[1].next_avail, s.queues[1].next_used) = (5, 5)),
        ("size", &|s| s.queues[0].size = 12),
        ("too large", &|s| s.queues[0].size = 512),
        ("alignment", &|s| s.queues[0].descriptors = 8),
        ("the device's own", &|s| s.device = drystone_state::Blob::encode(&s.clone()).unwrap()),
    ];
    let fresh = echo(&memory);
    fresh.core.pause().unwrap();
    let built = fresh.core.save().unwrap();
    for (what, change) in wrong {
        let mut state = good.clone();
        change(&mut state);
        let refused = fresh.core.restore(state);
        assert!(
            matches!(refused, Err(RestoreError::Invalid { .. } | RestoreError::Schema { .. })),
            "{what}: {refused:?}"
        );
        assert_eq!(fresh.core.save().unwrap(), built, "{what}: something was left behind");
    }
    fresh.core.restore(good.clone()).unwrap();
    assert_eq!(fresh.core.save().unwrap(), good);
    assert!(fresh.core.restore(good).is_err(), "only into a fresh one");
    d.add(&[BUFFER], false).unwrap();
    fresh.core.resume();
    fresh.serve();
    assert_eq!(std::iter::from_fn(|| d.take()).count(), 4);
    // Of another device.
    let (hoard, _) = Hoard::new(2);
    let other = common::rig(Box::new(hoard), &memory);
    fresh.core.pause().unwrap();
    assert!(other.core.restore(fresh.core.save().unwrap()).is_err());
}

#[test]
fn a_restored_ring_that_is_not_in_memory_is_found_when_it_starts() {
    let memory = ram(1 << 20);
    let rig = echo(&memory);
    let d = DriverRing::new(&memory, 0x10000, 16, false);
    rig.bring_up(&[&d], 0);
    rig.core.pause().unwrap();
    let small = ram(0x8000);
    let next = echo(&small);
    next.core.restore(rig.core.save().unwrap()).unwrap();
    next.core.resume();
    assert_eq!((next.core.status() & NEEDS_RESET, next.edges.config()), (NEEDS_RESET, 1));
    next.core.set_status(0);
    assert_eq!(next.core.status(), 0);
}
