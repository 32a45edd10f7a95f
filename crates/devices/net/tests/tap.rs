//! A device on a tap interface of this host, in a network namespace of the test's own.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]
mod common;

use common::{ALL, MAC, OTHER, config, frame, with_header};
use drystone_net::{Backend, FRAME_HEADER, NetConfig, Offloads, Tap};
use drystone_testkit::net::NetMachine;
use drystone_testkit::virtio::{Transport, within};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

const HOST: [u8; 4] = [10, 9, 0, 1];
const GUEST: [u8; 4] = [10, 9, 0, 2];

/// Runs `body` in a network namespace of its own, if this host permits that and has ip(8).
#[allow(unsafe_code)]
fn apart(body: impl FnOnce() + Send + 'static) {
    within(Duration::from_secs(120), || {
        // SAFETY: only the network of this thread changes, which nothing else uses.
        let apart = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) };
        let has_ip = Command::new("ip").arg("-V").output().is_ok();
        match apart {
            Ok(()) if has_ip && std::fs::File::open("/dev/net/tun").is_ok() => body(),
            other => println!(
                "NOT TESTED HERE: tap interfaces. It takes /dev/net/tun, a network namespace ({other:?}), and ip(8) ({has_ip})"
            ),
        }
    });
}

/// Calls ip(8) in this thread's namespace.
fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// An interface that is up, has the host's address, and knows where the guest is.
fn tap(pairs: u16) -> Arc<Tap> {
    let tap = Tap::create("dry%d", pairs, None, Some(9000)).unwrap();
    let name = tap.name();
    ip(&format!("addr add 10.9.0.1/24 dev {name}"));
    ip(&format!("neigh add 10.9.0.2 lladdr {MAC} dev {name}"));
    tap
}

fn machine(tap: &Arc<Tap>, pairs: u16) -> NetMachine {
    let config = NetConfig { pairs, mtu: Some(9000), ..config() };
    NetMachine::on(config, tap.clone(), tap.ports(), ALL)
}

fn host_mac(tap: &Tap) -> [u8; 6] {
    let shown = Command::new("ip").args(["-o", "link", "show", tap.name()]).output().unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    let mac = text.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
    mac.parse::<drystone_net::Mac>().unwrap().0
}

fn sum(bytes: &[u8]) -> u16 {
    let pairs = bytes.chunks(2).map(|p| u32::from(p[0]) << 8 | u32::from(*p.get(1).unwrap_or(&0)));
    let mut sum: u32 = pairs.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A datagram from the guest to the host, with its checksum still to be computed.
fn datagram(to: [u8; 6], data: &[u8]) -> Vec<u8> {
    let udp = 8 + data.len();
    let mut ip = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0];
    ip[2..4].copy_from_slice(&((20 + udp) as u16).to_be_bytes());
    ip.extend(GUEST.iter().chain(&HOST));
    let check = !sum(&ip);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    let pseudo = [&GUEST[..], &HOST[..], &[0, 17], &(udp as u16).to_be_bytes()].concat();
    let mut frame = vec![1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0];
    frame.extend(to.iter().chain(&MAC.0).chain(&[8, 0]).chain(&ip));
    frame.extend(7001u16.to_be_bytes().iter().chain(&7000u16.to_be_bytes()));
    frame.extend((udp as u16).to_be_bytes().iter().chain(&sum(&pseudo).to_be_bytes()));
    frame.extend(data);
    frame
}

/// The next datagram for the guest on a pair: its header, and what it carries.
fn arrives(m: &mut NetMachine, pair: u16) -> Option<(Vec<u8>, Vec<u8>)> {
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        m.run();
        while let Some((frame, _)) = m.received(pair) {
            // The host's own talk is left out.
            if frame[FRAME_HEADER + 12..FRAME_HEADER + 14] == [8, 0] && frame[FRAME_HEADER + 23] == 17 {
                return Some((frame[..FRAME_HEADER].to_vec(), frame[FRAME_HEADER + 42..].to_vec()));
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}

#[test]
fn the_hosts_own_sockets_talk_to_the_guest() {
    apart(|| {
        let tap = tap(1);
        assert!(tap.offloads().contains(Offloads::CHECKSUM | Offloads::TSO4 | Offloads::TSO6));
        let mut m = machine(&tap, 1);
        let socket = UdpSocket::bind("10.9.0.1:7000").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mac = host_mac(&tap);
        for len in [1, 500, 8000] {
            let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let frame = datagram(mac, &data);
            assert!(m.add(1, &[&frame[..5], &frame[5..30], &frame[30..]], &[]));
            m.run();
            let mut got = vec![0; 9000];
            let n = socket.recv(&mut got).expect("with a checksum that the host has computed");
            assert!(got[..n] == data);
            (0..20).for_each(|_| assert!(m.add(0, &[], &[1000])));
            socket.send_to(&data, "10.9.0.2:7001").unwrap();
            let (header, carried) = arrives(&mut m, 0).expect("a datagram");
            assert_eq!(header[0] & 1, 1, "its checksum is left to the guest");
            assert!(carried == data);
        }
        let count = &m.handle.counters()[0];
        assert_eq!((count.tx_frames.get(), count.tx_errors.get(), count.rx_errors.get()), (3, 0, 0));
        assert_eq!(m.command(5, 0, &0u64.to_le_bytes()), 0);
        (0..20).for_each(|_| assert!(m.add(0, &[], &[1000])));
        socket.send_to(b"whole", "10.9.0.2:7001").unwrap();
        let (header, carried) = arrives(&mut m, 0).expect("a datagram");
        assert_eq!(
            (header[0] & 1, &carried[..]),
            (0, &b"whole"[..]),
            "the guest wants no such work any more"
        );
    });
}

#[test]
fn frames_come_by_those_queues_that_the_guest_uses() {
    apart(|| {
        let tap = tap(4);
        let mut m = machine(&tap, 4);
        let socket = UdpSocket::bind("10.9.0.1:7000").unwrap();
        for pairs in [1u16, 4, 2, 1, 4] {
            assert_eq!(m.command(4, 0, &pairs.to_le_bytes()), 0);
            for pair in 0..4 {
                while m.add(2 * pair, &[], &[1600]) {}
            }
            // Flows are spread over queues by ports and addresses.
            let mut by = [0; 4];
            for port in 8000..8040u16 {
                socket.send_to(b"stone", ("10.9.0.2", port)).unwrap();
            }
            let end = Instant::now() + Duration::from_secs(20);
            while by.iter().sum::<u32>() < 40 && Instant::now() < end {
                m.run();
                for (pair, count) in (0..).zip(&mut by) {
                    while let Some((frame, _)) = m.received(pair) {
                        *count += u32::from(frame.ends_with(b"stone"));
                    }
                }
            }
            assert_eq!(by.iter().sum::<u32>(), 40, "{by:?}");
            let used = by.iter().filter(|n| **n > 0).count();
            assert!(used > usize::from(pairs > 1) && used <= pairs.into(), "{pairs} pairs: {by:?}");
            assert!(by[usize::from(pairs)..].iter().all(|n| *n == 0), "{pairs} pairs: {by:?}");
        }
    });
}

#[test]
fn an_interface_that_goes_down_or_away_is_told() {
    apart(|| {
        let tap = tap(1);
        let mut m = machine(&tap, 1);
        let bad = [&[0u8, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &frame(OTHER, MAC, 60, 0)[..]].concat();
        assert!(m.add(1, &[&bad], &[]));
        m.run();
        assert_eq!(
            (m.take(1), m.handle.counters()[0].tx_errors.get()),
            (Some(vec![]), 1),
            "a header that is none"
        );
        assert_eq!(m.log.take(), Vec::<String>::new(), "the guest's own doing");
        for n in 0..100 {
            if n % 3 == 0 {
                m.send(0, &frame(OTHER, MAC, 60, n));
            } else {
                assert!(m.add(1, &[&bad], &[]));
            }
        }
        m.run();
        (0..100).for_each(|_| assert_eq!(m.take(1), Some(vec![])));
        let count = &m.handle.counters()[0];
        assert_eq!((count.tx_frames.get(), count.tx_errors.get()), (34, 67), "each for itself");
        ip(&format!("link set {} down", tap.name()));
        m.send(0, &frame(OTHER, MAC, 60, 0));
        m.run();
        let log = m.log.take();
        assert!(log.len() == 1 && log[0].contains("`ip link set dry0 up` brings it up"), "{log:?}");
        assert_eq!((m.take(1), m.status()), (Some(vec![]), 1));
        ip(&format!("link set {} up", tap.name()));
        m.send(0, &frame(OTHER, MAC, 60, 0));
        m.run();
        assert_eq!((m.take(1), m.handle.counters()[0].tx_frames.get()), (Some(vec![]), 35));
        ip(&format!("link del {}", tap.name()));
        assert!(m.add(0, &[], &[1600]));
        m.send(0, &frame(OTHER, MAC, 60, 0));
        m.run();
        assert_eq!((m.take(1), m.status(), m.port.status()), (Some(vec![]), 0, 0x0f));
        let log = m.log.take();
        assert!(log.len() == 1 && log[0].contains("the guest's link is down"), "{log:?}");
    });
}

#[test]
fn whatever_is_wrong_with_an_interface_is_said_and_how_to_mend_it() {
    apart(|| {
        let said =
            |tap: Result<Arc<Tap>, _>| tap.map_err(|e: drystone_net::TapError| e.to_string()).unwrap_err();
        let error = said(Tap::open("vm0", 2));
        assert!(error.contains("no interface `vm0`: `ip tuntap add vm0 mode tap multi_queue`"), "{error}");
        for name in ["", "a name", "sixteen-letters!", "a/b"] {
            assert!(said(Tap::create(name, 1, None, None)).contains("1 to 15 characters"), "{name}");
        }
        let error = said(Tap::create("vm0", 1, Some("br0"), None));
        assert!(
            error.contains("`vm0`: cannot join bridge `br0`")
                && error.contains("ip link add br0 type bridge"),
            "{error}"
        );
        assert!(said(Tap::open("vm0", 1)).contains("no interface"), "nothing is left behind");
        ip("link add br0 type bridge");
        let tap = Tap::create("vm0", 1, Some("br0"), None).unwrap();
        assert!(said(Tap::open("vm0", 1)).contains("another program has it"));
        assert!(said(Tap::create("vm0", 1, None, None)).contains("already"));
        drop(tap);
        ip("tuntap add vm1 mode tap");
        let error = said(Tap::open("vm1", 2));
        assert!(error.contains("was it made for several queues?"), "{error}");
        ip("tuntap add vm2 mode tap multi_queue");
        let error = said(Tap::open("vm2", 1));
        assert!(error.contains("was it made for one queue?"), "{error}");
        ip("tuntap add tun0 mode tun");
        assert!(said(Tap::open("tun0", 1)).contains("is it a tap"));
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert!(said(Tap::from_queues(vec![file])).contains("not a queue of a tap"));
        assert!(said(Tap::from_queues(vec![])).contains("not queues of one"));
        ip("tuntap add vm3 mode tap");
        Tap::open("vm3", 1).unwrap();
        let mut m = {
            let tap = Tap::open("vm3", 1).unwrap();
            machine(&tap, 1)
        };
        m.send(0, &with_header(&frame(OTHER, MAC, 60, 0)));
        m.run();
        assert!(m.log.take().iter().any(|line| line.contains("`ip link set vm3 up`")));
    });
}
