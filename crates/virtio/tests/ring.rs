//! Rings through the core with the driver's half from testkit, on one thread.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use common::{BUFFER, Custom, rig};
use drystone_state::Persist;
use drystone_testkit::as_written;
use drystone_testkit::virtio::{
    CorePort, DriverRing, Echo, INDIRECT, NEXT, Ram, WRITE, bring_up, ram, ram_of,
};
use drystone_virtio::{Cx, F_EVENT_IDX, F_INDIRECT_DESC, NEEDS_RESET, Next};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress};

#[test]
fn direct_indirect_event_idx_and_flags_all_complete_once() {
    for (event, indirect, split) in (0..8).map(|i| (i & 1 != 0, i & 2 != 0, i & 4 != 0)) {
        let features = if event { F_EVENT_IDX } else { 0 } | if indirect { F_INDIRECT_DESC } else { 0 };
        // Once more than 65,536 requests, so that both indices wrap.
        let rounds: u32 = if (event, indirect, split) == (true, true, false) { 22_000 } else { 500 };
        // The descriptor table crosses from one region to the next: it is not one piece.
        let memory = if split { ram_of(&[(0, 0x10080), (0x10080, 0xf_0000)]) } else { ram(1 << 20) };
        let rig = rig(Box::new(Echo::new(1, false)), &memory);
        let mut d = DriverRing::new(&memory, 0x10000, 16, event);
        rig.bring_up(&[&d], features);
        let (mut done, mut kicks) = (0, 0);
        for round in 0..rounds {
            let heads = 1 + round % 5;
            for k in 0..heads {
                let at = 0x40000 + 64 * u64::from(k);
                memory.write_obj(round ^ k, GuestAddress(at)).unwrap();
                d.add(&[(at, 4, 0), (at + 8, 1, WRITE), (at + 12, 9, WRITE)], indirect && k % 2 == 0)
                    .unwrap();
            }
            d.want_interrupt_after(1);
            if d.wants_kick() {
                kicks += 1;
                assert_eq!(rig.core.kick(0), Next::Idle);
            }
            while let Some((_, written)) = d.take() {
                assert_eq!(written, 4);
                done += 1;
            }
            for k in 0..heads {
                let at = 0x40000 + 64 * u64::from(k);
                let bytes = (round ^ k).to_le_bytes().map(|b| b ^ 0x0f);
                let (first, rest): (u8, [u8; 3]) = (
                    memory.read_obj(GuestAddress(at + 8)).unwrap(),
                    memory.read_obj(GuestAddress(at + 12)).unwrap(),
                );
                assert_eq!([first, rest[0], rest[1], rest[2]], bytes);
            }
        }
        assert_eq!((done, d.outstanding()), ((0..rounds).map(|r| 1 + r % 5).sum::<u32>(), 0));
        assert_eq!(kicks, rounds, "an emptied ring is always re-armed");
        assert_eq!(rig.edges.queue(0), rounds, "one interrupt a batch");
    }
}

#[test]
fn every_malformed_chain_is_a_fault_never_a_shorter_chain() {
    let far = 1 << 40;
    let table = |d: &DriverRing, bufs: &[(u64, u32, u16)]| {
        for (i, buf) in (0..).zip(bufs) {
            d.put(0x50000, i, *buf, i + 1);
        }
    };
    type Case<'a> = (&'a str, u64, &'a dyn Fn(&mut DriverRing));
    let cases: &[Case<'_>] = &[
        ("head out of range", 0, &|d| d.offer(16)),
        ("index ahead", 0, &|d| d.set_available(17)),
        ("buffer unmapped", 0, &|d| assert!(d.add(&[(far, 8, WRITE)], false).is_some())),
        ("buffer across the end", 0, &|d| {
            assert!(d.add(&[(0, 8, 0), ((1 << 20) - 4, 8, WRITE)], false).is_some())
        }),
        ("buffer across the last address", 0, &|d| {
            assert!(d.add(&[(0, 8, 0), (u64::MAX - 3, 8, WRITE)], false).is_some())
        }),
        ("read after write", 0, &|d| assert!(d.add(&[BUFFER, (0x40000, 8, 0)], false).is_some())),
        ("more than 4 GiB", 0, &|d| {
            assert!(d.add(&[(0, u32::MAX, 0), (0, 1, WRITE)], false).is_some());
        }),
        ("indirect, not negotiated", 0, &|d| {
            table(d, &[BUFFER]);
            assert!(d.add(&[(0x50000, 16, INDIRECT)], false).is_some());
        }),
        ("nested indirect", F_INDIRECT_DESC, &|d| assert!(d.add(&[(0x40000, 16, INDIRECT)], true).is_some())),
        ("indirect with a next", F_INDIRECT_DESC, &|d| {
            table(d, &[BUFFER]);
            assert!(d.add(&[(0x50000, 16, INDIRECT), BUFFER], false).is_some());
        }),
        ("indirect length", F_INDIRECT_DESC, &|d| {
            assert!(d.add(&[(0x40000, 17, INDIRECT)], false).is_some())
        }),
        ("indirect of nothing", F_INDIRECT_DESC, &|d| {
            assert!(d.add(&[(0x40000, 0, INDIRECT)], false).is_some())
        }),
        ("indirect unmapped", F_INDIRECT_DESC, &|d| assert!(d.add(&[(far, 16, INDIRECT)], false).is_some())),
        ("next beyond an indirect table", F_INDIRECT_DESC, &|d| {
            table(d, &[(0x40000, 8, WRITE | NEXT)]);
            assert!(d.add(&[(0x50000, 16, INDIRECT)], false).is_some());
        }),
        ("indirect table too long", F_INDIRECT_DESC, &|d| {
            assert!(d.add(&[(0x50000, 16 * 1025, INDIRECT)], false).is_some());
        }),
        ("loop", 0, &|d| {
            let head = d.add(&[BUFFER, BUFFER], false).unwrap();
            d.put(d.descriptors(), head - 1, (0x40000, 8, WRITE | NEXT), head);
        }),
        ("loop of one", 0, &|d| {
            let head = d.add(&[BUFFER], false).unwrap();
            d.put(d.descriptors(), head, (0x40000, 0, WRITE | NEXT), head);
        }),
        ("next out of range", 0, &|d| {
            let head = d.add(&[BUFFER, BUFFER], false).unwrap();
            d.put(d.descriptors(), head, (0x40000, 8, WRITE | NEXT), 999);
        }),
    ];
    for (what, features, break_it) in cases {
        let memory = ram(1 << 20);
        let rig = rig(Box::new(Echo::new(1, false)), &memory);
        let mut d = DriverRing::new(&memory, 0x10000, 16, false);
        rig.bring_up(&[&d], *features);
        break_it(&mut d);
        assert_eq!(rig.core.kick(0), Next::Idle, "{what}");
        assert_eq!(rig.core.status() & NEEDS_RESET, NEEDS_RESET, "{what}");
        assert_eq!((rig.edges.config(), rig.log.take().len()), (1, 1), "{what}: said once");
        assert_eq!((d.used_index(), rig.core.kick(0)), (0, Next::Idle), "{what}");
        assert_eq!(rig.edges.config(), 1, "{what}: the lane stays stopped");
        // A reset brings it back.
        rig.core.set_status(0);
        assert_eq!(rig.core.status(), 0, "{what}");
        let mut d = DriverRing::new(&memory, 0x10000, 16, false);
        rig.bring_up(&[&d], 0);
        d.add(&[BUFFER], false).unwrap();
        rig.kick(0);
        assert_eq!(d.take().unwrap().1, 1, "{what}");
    }
}

#[test]
fn a_ring_that_cannot_be_is_a_fault_when_it_starts() {
    let good = [0x10000, 0x12000, 0x13000];
    let cases: &[(u16, [u64; 3])] = &[
        (0, good),
        (3, good),
        (512, good),
        (16, [0x10008, 0x12000, 0x13000]),
        (16, [0x10000, 0x12001, 0x13000]),
        (16, [0x10000, 0x12000, 0x13002]),
        (16, [0xf_fff0, 0x12000, 0x13000]),
        (16, [0x10000, 1 << 40, 0x13000]),
        (16, [0x10000, 0x12000, u64::MAX - 3]),
    ];
    for (size, areas) in cases {
        let memory = ram(1 << 20);
        let rig = rig(Box::new(Echo::new(2, true)), &memory);
        let mut other = DriverRing::new(&memory, 0x20000, 16, false);
        rig.core.set_status(1);
        rig.core.set_status(3);
        rig.core.set_driver_features(true, 1);
        rig.core.set_status(0x0b);
        for (queue, size, areas) in
            [(0, *size, *areas), (1, 16, [other.descriptors(), other.available(), other.used()])]
        {
            rig.core.set_queue(queue, |q| (q.size, [q.descriptors, q.available, q.used]) = (size, areas));
            rig.core.enable_queue(queue);
        }
        rig.core.set_status(0x0f);
        rig.serve();
        assert_eq!((rig.core.status(), rig.edges.config()), (0x4f, 1), "{size} {areas:x?}");
        // The other queue's lane goes on.
        other.add(&[BUFFER], false).unwrap();
        rig.kick(1);
        assert_eq!(other.take().unwrap().1, 1);
        rig.core.set_status(0);
        assert_eq!(rig.core.status(), 0);
    }
}

#[test]
fn a_guest_cannot_hold_a_lane() {
    let memory = ram(1 << 20);
    // A driver that offers a descriptor anew whenever the device has taken one.
    let ring = Arc::new(Mutex::new(DriverRing::new(&memory, 0x10000, 16, false)));
    let (driver, served) = (ring.clone(), Arc::new(Mutex::new(Vec::new())));
    let counts = served.clone();
    let device = Custom(move |queue, cx: &mut Cx<'_, Ram>| {
        let mut ring = cx.ring(queue)?;
        let mut n = 0;
        while let Some(chain) = ring.pop()? {
            ring.complete(chain, 1)?;
            driver.lock().unwrap().offer(0);
            n += 1;
        }
        counts.lock().unwrap().push(n);
        Ok(())
    });
    let rig = rig(Box::new(device), &memory);
    rig.bring_up(&[&ring.lock().unwrap()], 0);
    ring.lock().unwrap().add(&[BUFFER], false).unwrap();
    served.lock().unwrap().clear();
    assert_eq!(rig.core.kick(0), Next::Again);
    let counts = served.lock().unwrap();
    assert!(
        counts.iter().all(|n| *n == 16) && counts.len() < 16,
        "{counts:?}: a ring's worth a call, few calls"
    );
}

#[test]
fn what_a_driver_offers_twice_is_served_twice_and_never_more_than_a_ring_at_once() {
    let memory = ram(1 << 20);
    let rig = rig(Box::new(Echo::new(1, false)), &memory);
    let mut d = DriverRing::new(&memory, 0x10000, 16, false);
    rig.bring_up(&[&d], 0);
    for _ in 0..16 {
        d.add(&[BUFFER], false).unwrap();
    }
    rig.kick(0);
    (0..16).for_each(|head| d.offer(head));
    rig.kick(0);
    assert_eq!((d.used_index(), rig.core.status() & NEEDS_RESET), (32, 0));
}

/// The driver adds after the device has found the ring empty and before it asks for kicks, and so need not kick.
#[test]
fn what_comes_between_empty_and_re_armed_is_served() {
    for event in [false, true] {
        let memory = ram(1 << 20);
        let ring = Arc::new(Mutex::new(DriverRing::new(&memory, 0x10000, 16, event)));
        let driver = ring.clone();
        let device = Custom(move |queue, cx: &mut Cx<'_, Ram>| {
            let mut ring = cx.ring(queue)?;
            let mut n = 0;
            while let Some(chain) = ring.pop()? {
                ring.complete(chain, 1)?;
                n += 1;
            }
            if n == 1 {
                let mut d = driver.lock().unwrap();
                d.add(&[BUFFER], false).unwrap();
                d.add(&[BUFFER], false).unwrap();
                assert!(!d.wants_kick());
            }
            Ok(())
        });
        let rig = rig(Box::new(device), &memory);
        rig.bring_up(&[&ring.lock().unwrap()], if event { F_EVENT_IDX } else { 0 });
        ring.lock().unwrap().add(&[BUFFER], false).unwrap();
        assert!(ring.lock().unwrap().wants_kick());
        let _ = rig.core.kick(0);
        assert_eq!(ring.lock().unwrap().used_index(), 3);
    }
}

#[test]
fn interrupts_come_when_asked_for() {
    let memory = ram(1 << 20);
    let events = rig(Box::new(Echo::new(1, false)), &memory);
    let mut d = DriverRing::new(&memory, 0x10000, 16, true);
    events.bring_up(&[&d], F_EVENT_IDX);
    for _ in 0..100 {
        d.want_interrupt_after(10);
        for _ in 0..20 {
            d.add(&[BUFFER], false).unwrap();
            events.kick(0);
            d.take().unwrap();
        }
    }
    assert_eq!(events.edges.queue(0), 100, "once, at the tenth");

    let flags = rig(Box::new(Echo::new(1, false)), &memory);
    let mut d = DriverRing::new(&memory, 0x10000, 16, false);
    flags.bring_up(&[&d], 0);
    for quiet in [1, 0, 1, 0] {
        d.set_flags(quiet);
        let before = flags.edges.queue(0);
        d.add(&[BUFFER], false).unwrap();
        flags.kick(0);
        d.take().unwrap();
        assert_eq!(flags.edges.queue(0) - before, 1 - u32::from(quiet));
    }
}

#[test]
fn a_request_that_is_put_back_comes_again() {
    let memory = ram(1 << 20);
    let refuse = Arc::new(AtomicBool::new(true));
    let refused = refuse.clone();
    let device = Custom(move |queue, cx: &mut Cx<'_, Ram>| {
        let mut ring = cx.ring(queue)?;
        let mut taken = Vec::new();
        while let Some(chain) = ring.pop()? {
            taken.push(chain);
        }
        if refused.load(Ordering::SeqCst) {
            while let Some(chain) = taken.pop() {
                ring.unpop(chain)?;
            }
        }
        for chain in taken {
            ring.complete(chain, 1)?;
        }
        Ok(())
    });
    let rig = rig(Box::new(device), &memory);
    let mut d = DriverRing::new(&memory, 0x10000, 16, false);
    rig.bring_up(&[&d], 0);
    let heads: Vec<_> = (0..5).map(|_| d.add(&[BUFFER], false).unwrap()).collect();
    let _ = rig.core.kick(0);
    assert_eq!((d.used_index(), rig.log.take().len()), (0, 0));
    rig.core.pause().unwrap();
    rig.core.resume();
    refuse.store(false, Ordering::SeqCst);
    rig.kick(0);
    let done: Vec<_> = std::iter::from_fn(|| d.take()).map(|(head, _)| head).collect();
    assert_eq!(done, heads);
}

/// The first of three requests goes back when the second is done: it is saved, and done before the third.
#[test]
fn a_request_that_was_overtaken_and_put_back_is_saved_with_its_queue() {
    let memory = ram(1 << 20);
    let only_the_second = |queue, cx: &mut Cx<'_, Ram>| {
        let mut ring = cx.ring(queue)?;
        let mut next = || ring.pop().map(|chain| chain.expect("a request"));
        let (first, second, third) = (next()?, next()?, next()?);
        ring.complete(second, 1)?;
        ring.put_back(third)?;
        ring.put_back(first)
    };
    let here = rig(Box::new(Custom(only_the_second)), &memory);
    let mut d = DriverRing::new(&memory, 0x10000, 16, false);
    let heads: Vec<_> = (0..3).map(|_| d.add(&[BUFFER], false).unwrap()).collect();
    bring_up(&CorePort(here.core.clone()), &[&d], 0);
    let _ = here.core.kick(0);
    assert_eq!(d.take(), Some((heads[1], 1)));
    here.core.pause().unwrap();
    let good = here.core.save().unwrap();
    assert_eq!(good.queues[0].returned, [heads[0]]);

    let all = |queue, cx: &mut Cx<'_, Ram>| {
        let mut ring = cx.ring(queue)?;
        while let Some(chain) = ring.pop()? {
            ring.complete(chain, 1)?;
        }
        Ok(())
    };
    let there = rig(Box::new(Custom(all)), &memory);
    let wrong: [&[u16]; 4] = [&[], &[16], &[0, 0], &[0, 1]];
    for returned in wrong {
        let mut state = good.clone();
        state.queues[0].returned = returned.to_vec();
        assert!(there.core.restore(state).is_err(), "{returned:?}");
    }
    there.core.restore(as_written(&good)).unwrap();
    there.core.resume();
    there.kick(0);
    let done: Vec<_> = std::iter::from_fn(|| d.take()).map(|(head, _)| head).collect();
    assert_eq!(done, [heads[0], heads[2]]);
}

/// A driver that never stops offering: its lane's loop keeps running, and yet a pause gets in.
#[test]
fn a_flood_does_not_keep_a_pause_out() {
    let memory = ram(1 << 20);
    let rig = rig(Box::new(Echo::new(1, false)), &memory);
    let d = DriverRing::new(&memory, 0x10000, 16, false);
    for head in 0..16 {
        d.put(d.descriptors(), head, BUFFER, 0);
    }
    rig.bring_up(&[&d], 0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut d = d;
            while !stop.load(Ordering::Relaxed) {
                // Always exactly one ring ahead of what was used.
                let room = d.used_index().wrapping_add(16);
                while d.next_avail() != room {
                    d.offer(d.next_avail() % 16);
                }
            }
        });
        s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = rig.core.kick(0);
            }
        });
        let used = || memory.load::<u16>(GuestAddress(0x13002), Ordering::Acquire).unwrap();
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(1));
            rig.core.pause().unwrap();
            let before = used();
            std::thread::sleep(Duration::from_micros(100));
            assert_eq!(used(), before);
            rig.core.resume();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(rig.core.status() & NEEDS_RESET, 0);
}

/// The races of notification suppression, with a driver that honours it and a device on a thread of its own.
#[test]
fn no_kick_is_lost() {
    use drystone_virtio::{Doorbell, Host, VirtioCore};
    use vmm_sys_util::eventfd::EventFd;
    struct Bell(EventFd);
    impl Doorbell for Bell {
        fn ring(&self, _: u16) {
            self.0.write(1).unwrap();
        }
    }
    for event in [false, true] {
        let memory = ram(1 << 20);
        let bell = Arc::new(Bell(EventFd::new(0).unwrap()));
        let edges = Arc::new(drystone_testkit::virtio::Edges::default());
        let device = Box::new(Echo::new(1, false));
        let core = VirtioCore::new(device, memory.clone(), edges, Host::new(bell.clone())).unwrap();
        let core = Arc::new(core);
        let (server, heard, stop) = (core.clone(), bell.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                heard.0.read().unwrap();
                if server.kick(0) == Next::Again {
                    heard.0.write(1).unwrap();
                }
            }
        });
        let mut d = DriverRing::new(&memory, 0x10000, 16, event);
        let features = if event { F_EVENT_IDX } else { 0 };
        drystone_testkit::virtio::bring_up(&drystone_testkit::virtio::CorePort(core), &[&d], features);
        for i in 0..20_000u32 {
            d.add(&[BUFFER], false).unwrap();
            if d.wants_kick() {
                bell.0.write(1).unwrap();
            }
            let begun = std::time::Instant::now();
            while d.take().is_none() {
                assert!(begun.elapsed().as_secs() < 30, "request {i}: kick lost");
                std::hint::spin_loop();
            }
            (0..i % 64).for_each(|_| std::hint::spin_loop()); // walk over the window
        }
        stop.store(true, Ordering::SeqCst);
        bell.0.write(1).unwrap();
        thread.join().unwrap();
    }
}
