//! Frames in both directions, in buffers of every shape.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]
mod common;

use common::{ALL, MAC, OTHER, SIMPLE, frame, machine, with_header};
use drystone_net::{FRAME_HEADER, MAX_FRAME};
use drystone_testkit::net::{MRG_RXBUF, NetMachine};

#[test]
fn frames_arrive_whole_and_in_order_however_they_are_cut() {
    let mut m = machine(ALL);
    let mut expected = Vec::new();
    for (n, len) in [14, 60, 61, 1514, 9014, MAX_FRAME].into_iter().enumerate() {
        let frame = with_header(&frame(OTHER, MAC, len, n as u8));
        let cuts: [&[usize]; 4] = [&[], &[FRAME_HEADER], &[1, 11, 13, 40], &[FRAME_HEADER + 13]];
        for cuts in cuts {
            let (mut pieces, mut from) = (Vec::new(), 0);
            for cut in cuts.iter().copied().filter(|c| *c < frame.len()).chain([frame.len()]) {
                pieces.push(&frame[from..cut]);
                from = cut;
            }
            assert!(m.add(1, &pieces, &[]));
            expected.push(frame.clone());
        }
    }
    m.run();
    for frame in &expected {
        assert_eq!(m.take(1), Some(vec![]), "answered");
        assert!(m.wire.receive(0).as_ref() == Some(frame));
    }
    assert_eq!((m.take(1), m.wire.receive(0)), (None, None));
    let count = &m.handle.counters()[0];
    assert_eq!(count.tx_frames.get(), expected.len() as u64);
    let bytes: usize = expected.iter().map(|frame| frame.len() - FRAME_HEADER).sum();
    assert_eq!((count.tx_bytes.get(), count.tx_dropped.get()), (bytes as u64, 0));
}

#[test]
fn what_is_no_frame_is_answered_and_goes_nowhere() {
    let mut m = machine(ALL);
    let long = vec![0; FRAME_HEADER + MAX_FRAME + 1];
    let shapes: [(&[&[u8]], &[u32]); 6] = [
        (&[&[0; FRAME_HEADER]], &[]),
        (&[&[0; 3]], &[]),
        (&[&[0; FRAME_HEADER + 13]], &[]),
        (&[], &[100]),
        (&[&[0; FRAME_HEADER - 1]], &[2000]),
        (&[&long], &[]),
    ];
    for (readable, writable) in shapes {
        assert!(m.add(1, readable, writable));
    }
    m.send(0, &frame(OTHER, MAC, 60, 0));
    m.run();
    (0..shapes.len() + 1).for_each(|_| assert_eq!(m.take(1), Some(vec![])));
    assert_eq!(m.handle.counters()[0].tx_dropped.get(), shapes.len() as u64);
    assert_eq!(m.wire.receive(0), Some(with_header(&frame(OTHER, MAC, 60, 0))));
    assert_eq!(m.wire.receive(0), None);
    // Only the guest has done wrong: nothing that its operator must know of.
    assert_eq!(m.log.take(), Vec::<String>::new());
}

/// Offers buffers, and checks what arrives in how many of them.
fn arrives(m: &mut NetMachine, buffers: &[&[u32]], len: usize, expected: u16) {
    for buffer in buffers {
        assert!(m.add(0, &[], buffer));
    }
    let frame = frame(MAC, OTHER, len, buffers.len() as u8);
    assert!(m.wire.send(0, &with_header(&frame)));
    m.run();
    let (got, number) = m.received(0).expect("a frame");
    assert_eq!((got.len() - FRAME_HEADER, number), (len, expected));
    assert!(got[FRAME_HEADER..] == frame[..]);
    assert_eq!(got[..10], [0; 10]);
}

#[test]
fn frames_are_spread_over_as_many_buffers_as_they_need() {
    let mut m = machine(SIMPLE);
    arrives(&mut m, &[&[12, 1514], &[1526]], 1514, 1);
    // One buffer is left over, and used first.
    arrives(&mut m, &[&[100]], 1514, 1);
    arrives(&mut m, &[&[12], &[1000, 500]], 1000, 3);
    assert!(m.received(0).is_none());
    // Buffers of a driver that takes large frames.
    let mut m = machine(ALL);
    let buffers: Vec<&[u32]> = vec![&[4096]; 17];
    arrives(&mut m, &buffers, MAX_FRAME, 17);
    arrives(&mut m, &buffers, 60, 1);
}

#[test]
fn a_frame_that_finds_too_few_buffers_waits_for_more() {
    let mut m = machine(SIMPLE);
    for len in [20, 30] {
        assert!(m.add(0, &[], &[len]));
    }
    let first = frame(MAC, OTHER, 200, 1);
    m.wire.send(0, &with_header(&first));
    m.wire.send(0, &with_header(&frame(MAC, OTHER, 60, 2)));
    m.run();
    assert!(m.received(0).is_none(), "too few");
    m.port.0.core().pause().unwrap();
    m.port.0.core().resume();
    m.run();
    assert!(m.add(0, &[], &[100]));
    m.run();
    assert!(m.received(0).is_none(), "still too few");
    assert!(m.add(0, &[], &[100]) && m.add(0, &[], &[100]));
    m.run();
    let (got, buffers) = m.received(0).unwrap();
    assert_eq!((&got[FRAME_HEADER..], buffers), (&first[..], 4));
    let (got, buffers) = m.received(0).unwrap();
    assert_eq!((got.len(), buffers), (72, 1), "and those behind it");
    assert_eq!(m.handle.counters()[0].rx_dropped.get(), 0);
}

#[test]
fn a_frame_that_will_never_fit_is_dropped() {
    // A ring full of buffers that are too small together.
    let mut config = common::config();
    config.queue_size = 4;
    let mut m = NetMachine::new(config, common::offloads(), SIMPLE);
    m.dropped = true;
    (0..4).for_each(|_| assert!(m.add(0, &[], &[50])));
    m.wire.send(0, &with_header(&frame(MAC, OTHER, 300, 1)));
    m.wire.send(0, &with_header(&frame(MAC, OTHER, 60, 2)));
    m.run();
    let (got, buffers) = m.received(0).expect("the one behind it");
    assert_eq!((got.len(), buffers), (72, 2));
    assert_eq!(m.handle.counters()[0].rx_dropped.get(), 1);
    // One buffer a frame, without anything that merges them.
    let mut m = machine(SIMPLE & !MRG_RXBUF);
    m.dropped = true;
    (0..4).for_each(|_| assert!(m.add(0, &[], &[100])));
    m.wire.send(0, &with_header(&frame(MAC, OTHER, 89, 1)));
    m.wire.send(0, &with_header(&frame(MAC, OTHER, 88, 2)));
    m.run();
    assert_eq!(m.received(0).map(|(frame, buffers)| (frame.len(), buffers)), Some((100, 1)));
    assert!(m.received(0).is_none());
    assert_eq!(m.handle.counters()[0].rx_dropped.get(), 1);
}

#[test]
fn buffers_that_can_hold_no_frame_are_given_back() {
    let mut m = machine(SIMPLE);
    assert!(m.add(0, &[&[1, 2, 3]], &[]) && m.add(0, &[], &[11]) && m.add(0, &[&[0]], &[200]));
    m.wire.send(0, &with_header(&frame(MAC, OTHER, 60, 2)));
    m.run();
    assert_eq!((m.take(0), m.take(0)), (Some(vec![]), Some(vec![])));
    assert_eq!(m.received(0).map(|(frame, buffers)| (frame.len(), buffers)), Some((72, 1)));
    assert_eq!(m.handle.counters()[0].rx_malformed.get(), 2);
}

#[test]
fn a_port_that_takes_no_more_is_asked_again() {
    let mut m = machine(ALL);
    let mut sent = 0u32;
    // The cable holds 1024 frames.
    for _ in 0..10 {
        for _ in 0..128 {
            let mut frame = frame(OTHER, MAC, 60, 0);
            frame[20..24].copy_from_slice(&sent.to_le_bytes());
            m.send(0, &frame);
            sent += 1;
        }
        m.run();
        while m.take(1).is_some() {}
        if m.rings[1].outstanding() > 0 {
            break;
        }
    }
    assert!(sent > 1024 && m.rings[1].outstanding() > 0, "the cable is full");
    assert!(m.handle.counters()[0].tx_stalls.get() > 0);
    for n in 0..sent {
        let frame = m.wire.receive(0).expect("nothing is lost");
        assert_eq!(frame[32..36], n.to_le_bytes());
        m.run();
    }
    while m.take(1).is_some() {}
    assert_eq!((m.rings[1].outstanding(), m.wire.receive(0)), (0, None));
}

#[test]
fn a_flood_is_cut_into_turns() {
    let mut m = machine(ALL);
    (0..1000).for_each(|n| assert!(m.wire.send(0, &with_header(&frame(MAC, OTHER, 60, n as u8)))));
    let mut got = 0;
    for _ in 0..1000 {
        while m.add(0, &[], &[1526]) {}
        m.run();
        while m.received(0).is_some() {
            got += 1;
        }
        if got == 1000 {
            return;
        }
    }
    panic!("{got} of 1000 frames");
}

#[test]
fn what_goes_back_to_the_ring_may_have_been_overtaken_by_what_is_malformed() {
    // Room, and then what is none: that is answered at once, the room is kept for a frame.
    let mut m = machine(SIMPLE);
    assert!(m.add(0, &[], &[200]) && m.add(0, &[], &[5]));
    m.run();
    assert_eq!(m.take(0), Some(vec![]));
    assert!(m.wire.send(0, &with_header(&frame(MAC, OTHER, 100, 1))));
    m.run();
    assert_eq!(m.received(0).unwrap().0.len(), FRAME_HEADER + 100);

    // A frame that the network does not take yet, and then what is none.
    let sent = |n: u32| frame(OTHER, MAC, 60, n as u8);
    for n in 0..1024 {
        m.send(0, &sent(n));
        m.run();
        assert!(m.take(1).is_some());
    }
    m.send(0, &sent(1024));
    assert!(m.add(1, &[&[0; 5]], &[]));
    m.run();
    assert_eq!(m.log.take(), [] as [String; 0]);
    (0..=1024).for_each(|n| {
        m.run();
        assert_eq!(m.wire.receive(0), Some(with_header(&sent(n))), "{n}");
    });
}
