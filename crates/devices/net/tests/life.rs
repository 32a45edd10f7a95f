//! Cables, limits, hooks, moves: what an operator does to a network device, and what goes wrong.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]
mod common;

use common::{ALL, MAC, OTHER, SIMPLE, config, frame, machine, offloads, with_header};
use drystone_bus::Clock;
use drystone_limit::{LimitConfig, Rate};
use drystone_net::{FRAME_HEADER, Hook, NetConfig, NetError, Offloads, Verdict, wire};
use drystone_state::{Component, Persist};
use drystone_testkit::net::{MQ, NetMachine};
use drystone_testkit::virtio::{Ram, Transport};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A frame each way; which arrive.
fn goes_and_comes(m: &mut NetMachine) -> (bool, bool) {
    m.send(0, &frame(OTHER, MAC, 60, 1));
    assert!(m.add(0, &[], &[100]));
    m.wire.send(0, &with_header(&frame(MAC, OTHER, 60, 2)));
    m.run();
    assert_eq!(m.take(1), Some(vec![]), "answered, whatever became of it");
    (m.wire.receive(0).is_some(), m.received(0).is_some())
}

#[test]
fn a_cable_goes_out_and_in() {
    let mut m = machine(ALL & !MQ);
    assert_eq!((m.status(), goes_and_comes(&mut m)), (1, (true, true)));
    m.handle.set_link(false).unwrap();
    m.run();
    assert_eq!((m.status(), m.handle.link(), m.port.take_interrupts() & 2), (0, false, 2));
    assert_eq!(goes_and_comes(&mut m), (false, false));
    m.handle.set_link(true).unwrap();
    m.run();
    assert_eq!((m.status(), goes_and_comes(&mut m)), (1, (true, true)), "and nothing that came meanwhile");
    let count = &m.handle.counters()[0];
    assert_eq!((count.tx_dropped.get(), count.rx_dropped.get()), (1, 1));
    m.handle.set_link(false).unwrap();
    m.run();
    m.bring_up(ALL & !MQ);
    assert_eq!(m.status(), 0, "a reset plugs nothing in");
}

#[test]
fn a_device_that_was_pulled_is_on_no_network_for_good() {
    let mut m = machine(ALL & !MQ);
    m.handle.pull();
    m.run();
    assert_eq!((m.status(), m.port.take_interrupts() & 2, goes_and_comes(&mut m)), (0, 2, (false, false)));
    m.handle.set_link(true).unwrap();
    m.run();
    assert_eq!((m.handle.is_pulled(), m.status(), goes_and_comes(&mut m)), (true, 0, (false, false)));
}

#[test]
fn a_guest_announces_itself_after_a_move_and_when_asked() {
    let mut m = machine(ALL & !MQ);
    m.move_away();
    assert_eq!(m.status(), 3);
    assert_eq!(m.port.take_interrupts() & 2, 2, "it is told");
    assert_eq!((m.command(3, 0, &[]), m.status()), (0, 1));
    m.handle.announce().unwrap();
    m.run();
    assert_eq!(m.status(), 3);
    m.bring_up(SIMPLE);
    m.handle.announce().unwrap();
    m.run();
    assert_eq!(m.status(), 1, "one that does not know how is not asked");
}

#[test]
fn a_network_that_is_gone_is_a_cable_that_is_out() {
    let mut m = machine(ALL & !MQ);
    assert!(m.add(0, &[], &[100]));
    m.wire.cut();
    m.run();
    assert_eq!((m.status(), m.port.status()), (0, 0x0f));
    assert_eq!(goes_and_comes(&mut m), (false, false));
    let log = m.log.take();
    assert!(log.len() == 1 && log[0].contains("reaching the network"), "{log:?}");
    // On another network there is no reason for it to be out.
    m.move_away();
    assert_eq!((m.status() & 1, goes_and_comes(&mut m)), (1, (true, true)));
    // Sending finds out as well.
    let mut m = machine(ALL & !MQ);
    m.wire.cut();
    m.send(0, &frame(OTHER, MAC, 60, 1));
    m.run();
    assert_eq!((m.take(1), m.status()), (Some(vec![]), 0));
}

fn frames_a_second(rate: u64) -> LimitConfig {
    LimitConfig { bandwidth: None, operations: Rate::new(rate) }
}

#[test]
fn frames_wait_for_their_limits_in_order_and_none_is_lost() {
    let mut m = machine(ALL & !MQ);
    m.handle.set_limits(frames_a_second(10), frames_a_second(20));
    assert_eq!(m.handle.limits(), (frames_a_second(10), frames_a_second(20)));
    for n in 0..5 {
        assert!(m.add(0, &[], &[100]));
        m.send(0, &frame(OTHER, MAC, 60, n));
        m.wire.send(0, &with_header(&frame(MAC, OTHER, 60, n)));
    }
    let (mut sent, mut got) = (0, 0);
    for tenth in 1..=5 {
        m.run();
        while let Some(bytes) = m.wire.receive(0) {
            assert_eq!(bytes[FRAME_HEADER..], frame(OTHER, MAC, 60, sent));
            sent += 1;
        }
        while let Some((bytes, _)) = m.received(0) {
            assert_eq!(bytes[FRAME_HEADER..], frame(MAC, OTHER, 60, got));
            got += 1;
        }
        assert_eq!((got, sent), (tenth, (2 * tenth - 1).min(5)), "after {} ms", 100 * (tenth - 1));
        m.clock.advance(Duration::from_millis(100));
    }
    let count = &m.handle.counters()[0];
    assert_eq!((count.rx_throttled.get(), count.tx_throttled.get()), (4, 2));
}

#[test]
fn bandwidth_is_of_frames_without_their_headers() {
    let mut m = machine(ALL & !MQ);
    let rate = LimitConfig { bandwidth: Rate::new(1000), operations: None };
    m.handle.set_limits(LimitConfig::default(), rate);
    // The burst is 50 bytes.
    for n in 0..3 {
        m.send(0, &frame(OTHER, MAC, 100, n));
    }
    let mut arrived = Vec::new();
    for _ in 0..30 {
        m.run();
        while m.wire.receive(0).is_some() {
            arrived.push(m.clock.monotonic());
        }
        m.clock.advance(Duration::from_millis(10));
    }
    assert_eq!(arrived, [50, 150, 250].map(Duration::from_millis));
}

#[test]
fn a_pause_and_a_reset_take_what_waits_for_a_limit_along() {
    let mut m = machine(ALL & !MQ);
    m.handle.set_limits(frames_a_second(1), frames_a_second(1));
    for n in 0..3 {
        assert!(m.add(0, &[], &[100]));
        m.send(0, &frame(OTHER, MAC, 60, n));
        m.wire.send(0, &with_header(&frame(MAC, OTHER, 60, n)));
    }
    m.run();
    assert_eq!((m.wire.receive(0).is_some(), m.wire.receive(0)), (true, None));
    m.port.0.core().pause().unwrap();
    assert_eq!(m.received(0).map(|_| m.received(0).is_some()), Some(true), "what is there already arrives");
    m.port.0.core().resume();
    m.run();
    assert_eq!(
        (m.take(1), m.rings[1].outstanding()),
        (Some(vec![]), 2),
        "what is not sent waits in the ring"
    );
    m.handle.set_limits(LimitConfig::default(), LimitConfig::default());
    m.run();
    for n in 1..3 {
        assert_eq!(m.wire.receive(0), Some(with_header(&frame(OTHER, MAC, 60, n))));
    }
    assert!(m.received(0).is_some());
    m.handle.set_limits(frames_a_second(1), frames_a_second(1));
    for n in 0..3 {
        assert!(m.add(0, &[], &[100]));
        m.send(0, &frame(OTHER, MAC, 60, n));
        m.wire.send(0, &with_header(&frame(MAC, OTHER, 60, n)));
    }
    m.run();
    m.bring_up(ALL & !MQ);
    assert_eq!(m.port.status(), 0x0f);
    m.handle.set_limits(LimitConfig::default(), LimitConfig::default());
    m.run();
    while m.wire.receive(0).is_some() {}
    (0..3).for_each(|_| assert!(m.add(0, &[], &[100])));
    m.run();
    while m.received(0).is_some() {}
    assert_eq!(goes_and_comes(&mut m), (true, true));
}

#[test]
fn a_guest_sends_from_its_own_address_only_when_that_is_enforced() {
    let config = NetConfig { enforce_mac: true, ..config() };
    let mut m = NetMachine::new(config, offloads(), ALL & !MQ);
    for from in [MAC, OTHER, MAC] {
        m.send(0, &frame(OTHER, from, 1514, 7));
    }
    m.run();
    for _ in 0..2 {
        assert_eq!(m.wire.receive(0), Some(with_header(&frame(OTHER, MAC, 1514, 7))));
    }
    assert_eq!((m.wire.receive(0), m.handle.counters()[0].tx_spoofed.get()), (None, 1));
    assert_eq!((m.command(1, 1, &OTHER.0), m.handle.mac()), (1, MAC), "nor does it change it");
    let mut m = machine(ALL & !MQ);
    m.send(0, &frame(OTHER, OTHER, 60, 7));
    m.run();
    assert!(m.wire.receive(0).is_some(), "it is not enforced unless asked for");
}

/// Answers what is sent to one address, and loses what is sent to another.
struct Service(Arc<Mutex<Vec<Vec<u8>>>>);

const SERVICE: drystone_net::Mac = drystone_net::Mac([2, 0, 0, 0, 0, 9]);
const NOWHERE: drystone_net::Mac = drystone_net::Mac([2, 0, 0, 0, 0, 8]);

impl Hook for Service {
    fn outgoing(&mut self, head: &[u8]) -> Verdict {
        match head.get(..6) {
            Some(to) if to == SERVICE.0 => Verdict::Take,
            Some(to) if to == NOWHERE.0 => Verdict::Drop,
            _ => Verdict::Pass,
        }
    }
    fn take(&mut self, frame: &[u8]) {
        let mut answer = frame.to_vec();
        answer[..6].copy_from_slice(&MAC.0);
        answer[6..12].copy_from_slice(&SERVICE.0);
        self.0.lock().unwrap().push(answer);
    }
    fn reply(&mut self, frame: &mut [u8]) -> Option<usize> {
        let answer = self.0.lock().unwrap().pop()?;
        frame[..answer.len()].copy_from_slice(&answer);
        Some(answer.len())
    }
}

#[test]
fn a_hook_answers_ahead_of_the_network() {
    let replies = Arc::new(Mutex::new(Vec::new()));
    let hook = Box::new(Service(replies.clone()));
    let mut m = NetMachine::with_hook(config(), offloads(), ALL & !MQ, Some(hook));
    assert!(m.add(0, &[], &[2000]) && m.add(0, &[], &[2000]));
    for to in [SERVICE, NOWHERE, OTHER] {
        m.send(0, &frame(to, MAC, 700, 3));
    }
    m.run();
    assert_eq!(m.wire.receive(0), Some(with_header(&frame(OTHER, MAC, 700, 3))));
    assert_eq!(m.wire.receive(0), None);
    let (got, _) = m.received(0).expect("an answer");
    assert_eq!(got[FRAME_HEADER..], frame(MAC, SERVICE, 700, 3));
    replies.lock().unwrap().push(frame(MAC, SERVICE, 60, 1));
    m.handle.wake();
    m.run();
    assert!(m.received(0).is_some(), "one that nobody has asked for");
    let count = &m.handle.counters()[0];
    assert_eq!((count.tx_hooked.get(), count.tx_dropped.get(), count.tx_frames.get()), (1, 1, 1));
}

#[test]
fn what_was_written_down_is_the_same_elsewhere() {
    let limits =
        |rx, tx| NetConfig { rx_limit: frames_a_second(rx), tx_limit: frames_a_second(tx), ..config() };
    let mut m = NetMachine::new(limits(10, 20), offloads(), ALL & !MQ);
    m.send(0, &frame(OTHER, MAC, 60, 2));
    m.run();
    assert_eq!(m.command(0, 0, &[0]), 0);
    assert_eq!(m.command(1, 1, &OTHER.0), 0);
    assert_eq!(m.command(2, 0, &7u16.to_le_bytes()), 0);
    m.handle.set_link(false).unwrap();
    m.run();
    m.move_away();
    assert_eq!((m.handle.mac(), m.handle.link(), m.status()), (OTHER, false, 2));
    m.handle.set_link(true).unwrap();
    m.run();
    assert!(m.add(0, &[], &[100]));
    m.wire.send(0, &with_header(&frame(MAC, OTHER, 60, 2)));
    m.run();
    assert!(m.received(0).is_none(), "it has another address now, and a filter");
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let m = machine(ALL & !MQ);
    m.port.0.pause().unwrap();
    let state = m.port.0.save().unwrap();
    let build = |config: &NetConfig, offloads: Offloads| NetMachine::new(config.clone(), offloads, 0);
    let refused = |other: &NetMachine| {
        other.port.0.reset().unwrap();
        other.port.0.pause().unwrap();
        other.port.0.restore(state.clone()).unwrap_err().to_string()
    };
    let other = build(&NetConfig::new("net0", OTHER), offloads());
    let error = refused(&other);
    assert!(error.contains("has the address 52:54:00:00:00:01, the saved one 52:54:00:12:34:56"), "{error}");
    let error = refused(&build(&config(), Offloads::NONE));
    assert!(error.contains("features"), "{error}");
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let refused = |change: fn(&mut NetConfig)| {
        let mut config = config();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    };
    assert!(refused(|c| c.mtu = Some(67)).contains("mtu 67: 68 to 65535"));
    assert!(refused(|c| c.pairs = 0).contains("0 pairs"));
    assert!(refused(|c| c.pairs = 17).contains("1 to 16"));
    assert!(refused(|c| c.queue_size = 100).contains("power of two"));
    assert!(refused(|c| c.mac = drystone_net::Mac::BROADCAST).contains("group"));
    let (backend, ports, _) = wire(2, Offloads::NONE).unwrap();
    let clock = Arc::new(drystone_bus::SystemClock::new());
    let error = drystone_net::Net::<Ram>::new(&config(), backend, ports, clock).err().unwrap();
    assert!(matches!(error, NetError::Config { .. }), "{error}");
    assert_eq!(error.to_string(), "network device `net0`: 1 pairs of queues: the back end has 2 ports");
}
