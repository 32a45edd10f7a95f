//! A device on a stream of frames whose other end the test holds, and what is wrong with a passt and how to mend it.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]
mod common;

use common::{ALL, MAC, OTHER, config, frame};
use drystone_net::{FRAME_HEADER, NetConfig, Passt, PasstConfig, PasstError};
use drystone_runner::{Doorbells, Runner};
use drystone_testkit::net::NetMachine;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A device, and the end of its stream that passt would have.
fn machine() -> (NetMachine, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let (passt, ports) = Passt::from_stream(OwnedFd::from(ours)).unwrap();
    let config = NetConfig { mtu: Some(Passt::MTU), ..config() };
    (NetMachine::on(config, passt, ports, ALL), theirs)
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes(), frame].concat()
}

/// The next frame at the other end.
fn next(stream: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut frame).unwrap();
    frame
}

#[test]
fn frames_go_both_ways_without_headers() {
    let (mut m, mut passt) = machine();
    let sent: Vec<_> = (0..100).map(|n| frame(OTHER, MAC, 14 + 13 * usize::from(n), n)).collect();
    sent.iter().for_each(|frame| m.send(0, frame));
    m.run();
    sent.iter().for_each(|frame| assert_eq!(next(&mut passt), *frame));
    let stream: Vec<u8> = sent.iter().rev().flat_map(|f| framed(&[&MAC.0, &f[6..]].concat())).collect();
    (0..130).for_each(|_| assert!(m.add(0, &[], &[1000])));
    let (first, rest) = stream.split_at(7777);
    passt.write_all(first).unwrap();
    m.run();
    passt.write_all(rest).unwrap();
    m.run();
    for frame in sent.iter().rev() {
        let (got, buffers) = m.received(0).unwrap();
        assert_eq!(got[FRAME_HEADER..], [&MAC.0, &frame[6..]].concat());
        assert_eq!(usize::from(buffers), got.len().div_ceil(1000));
    }
    assert_eq!(m.received(0), None);
    assert_eq!(m.log.take(), [] as [String; 0]);
}

#[test]
fn a_peer_that_stops_reading_stops_the_guest_and_nothing_is_lost() {
    let (mut m, mut passt) = machine();
    let large = |n| frame(OTHER, MAC, 60_000, n);
    // Far more than the host keeps.
    let all: Vec<_> = (0..200).map(large).collect();
    all.iter().for_each(|frame| m.send(0, frame));
    m.run();
    let counters = &m.handle.counters()[0];
    let taken = counters.tx_frames.get();
    assert!(taken > 0 && taken < 200, "{taken}");
    assert_ne!(counters.tx_stalls.get(), 0);
    (0..5).for_each(|_| m.run());
    assert_eq!(m.handle.counters()[0].tx_frames.get(), taken);
    // The guest says nothing more: that there is room again is what continues.
    let reader = std::thread::spawn(move || {
        all.iter().for_each(|frame| assert_eq!(next(&mut passt), *frame));
        passt
    });
    while !reader.is_finished() {
        m.run();
    }
    reader.join().unwrap();
    assert_eq!(m.handle.counters()[0].tx_frames.get(), 200);
    assert_eq!(m.log.take(), [] as [String; 0]);
}

#[test]
fn a_frame_that_went_in_part_is_finished_while_the_guest_waits_for_an_answer() {
    let (mut m, mut passt) = machine();
    let (mut all, mut bytes) = (Vec::new(), 0);
    while rustix::io::ioctl_fionread(&passt).unwrap() == bytes {
        assert_eq!(m.handle.counters()[0].tx_frames.get() as usize, all.len());
        all.push(frame(OTHER, MAC, 60_001, all.len() as u8));
        bytes += 60_005;
        m.send(0, all.last().unwrap());
        m.run();
    }
    assert_eq!(m.handle.counters()[0].tx_frames.get() as usize, all.len(), "as far as the guest can tell");
    let reader =
        std::thread::spawn(move || all.iter().for_each(|frame| assert_eq!(next(&mut passt), *frame)));
    while !reader.is_finished() {
        m.run();
    }
    reader.join().unwrap();
}

#[test]
fn an_event_loop_hears_of_everything() {
    let (mut m, mut passt) = machine();
    let doorbells = Arc::new(Doorbells::new(3).unwrap());
    let runner = Runner::new("net", NonZeroUsize::MIN).unwrap();
    let attachment = runner.attach(m.port.0.core(), &doorbells).unwrap();
    let kick = |queue| doorbells.event(queue).unwrap().write(1).unwrap();
    // The guest kicks once; that there is room again is what continues.
    let large: Vec<_> = (0..200).map(|n| frame(OTHER, MAC, 60_000, n)).collect();
    large.iter().for_each(|frame| m.send(0, frame));
    kick(1);
    large.iter().for_each(|frame| assert_eq!(next(&mut passt), *frame));
    // The guest has room once; that something comes is what continues.
    (0..200).for_each(|_| assert!(m.add(0, &[], &[2000])));
    kick(0);
    let small: Vec<_> = (0..200).map(|n| frame(MAC, OTHER, 1000, n)).collect();
    for frame in &small {
        passt.write_all(&framed(frame)).unwrap();
        std::thread::yield_now();
    }
    let end = Instant::now() + Duration::from_secs(60);
    let mut got = Vec::new();
    while got.len() < 200 {
        got.extend(m.received(0).map(|(frame, _)| frame[FRAME_HEADER..].to_vec()));
        assert!(Instant::now() < end, "{} of 200 frames", got.len());
    }
    assert_eq!(got, small);
    // There is no room left: what comes waits for a kick.
    passt.write_all(&framed(&small[0])).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert!(m.add(0, &[], &[2000]));
    kick(0);
    while m.received(0).is_none() {
        assert!(Instant::now() < end, "the frame that waited");
    }
    drop(passt);
    assert!(m.add(0, &[], &[2000]));
    kick(0);
    while m.status() & 1 == 1 {
        assert!(Instant::now() < end, "the peer has gone");
    }
    drop(attachment);
}

#[test]
fn a_peer_that_goes_is_a_cable_that_is_out() {
    let (mut m, passt) = machine();
    assert_eq!(m.status() & 1, 1);
    drop(passt);
    assert!(m.add(0, &[], &[2000]));
    m.run();
    let log = m.log.take().join("\n");
    assert!(log.contains("the other end of the network's socket has gone"), "{log}");
    assert_eq!(m.status() & 1, 0);
    m.send(0, &frame(OTHER, MAC, 100, 1));
    m.run();
    assert!(m.take(1).is_some(), "the guest gets its buffers back");
    assert_eq!(m.log.take(), [] as [String; 0], "it is told once");
}

#[test]
fn a_passt_that_is_started_again_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("passt.sock");
    let config = PasstConfig { socket: Some(path.clone()), ..PasstConfig::default() };
    let mut listener = Some(UnixListener::bind(&path).unwrap());
    let (passt, ports) = Passt::start(&config).unwrap();
    let mut m = NetMachine::on(common::config(), passt, ports, ALL);
    let doorbells = Arc::new(Doorbells::new(3).unwrap());
    let runner = Runner::new("net", NonZeroUsize::MIN).unwrap();
    let attachment = runner.attach(m.port.0.core(), &doorbells).unwrap();
    let kick = |queue| doorbells.event(queue).unwrap().write(1).unwrap();
    (0..100).for_each(|_| assert!(m.add(0, &[], &[2000])));
    kick(0);
    let end = Instant::now() + Duration::from_secs(60);
    for life in 0..3 {
        let own = listener.take().unwrap_or_else(|| UnixListener::bind(&path).unwrap());
        let (mut stream, _) = own.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        while m.status() & 1 == 0 {
            assert!(Instant::now() < end, "life {life}: the link is still down");
        }
        // Far more than the host keeps: that there is room again must still be heard of.
        let large: Vec<_> = (0..200).map(|n| frame(OTHER, MAC, 60_000, n)).collect();
        large.iter().for_each(|frame| m.send(0, frame));
        kick(1);
        large.iter().for_each(|frame| assert_eq!(next(&mut stream), *frame));
        stream.write_all(&framed(&frame(MAC, OTHER, 100, life))).unwrap();
        let got = loop {
            assert!(Instant::now() < end, "life {life}: nothing is received");
            if let Some((got, _)) = m.received(0) {
                break got;
            }
        };
        assert_eq!(got[FRAME_HEADER..], frame(MAC, OTHER, 100, life));
        // In the middle of a frame.
        stream.write_all(&[0, 0, 0, 9, 1]).unwrap();
        std::fs::remove_file(&path).unwrap();
        drop((own, stream));
        while m.status() & 1 == 1 {
            assert!(Instant::now() < end, "life {life}: the link is still up");
        }
        while m.take(1).is_some() {}
        let log = m.log.take();
        let told = format!("the passt at {} has gone", path.display());
        assert!(log.len() == 1 && log[0].contains(&told), "{log:?}");
    }
    // The operator's cable is one thing, the network another.
    m.handle.set_link(false).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let _stream = listener.accept().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(m.status() & 1, 0);
    m.handle.set_link(true).unwrap();
    while m.status() & 1 == 0 {
        assert!(Instant::now() < end, "the cable is in");
    }
    drop(attachment);
}

#[test]
fn a_peer_that_lies_is_left() {
    for lie in [0, 70_000, u32::MAX] {
        let (mut m, mut passt) = machine();
        passt.write_all(&[&framed(&frame(MAC, OTHER, 100, 3))[..], &lie.to_be_bytes()].concat()).unwrap();
        (0..3).for_each(|_| assert!(m.add(0, &[], &[2000])));
        m.run();
        assert_eq!(m.received(0).unwrap().0[FRAME_HEADER..], frame(MAC, OTHER, 100, 3));
        let log = m.log.take().join("\n");
        assert!(log.contains(&format!("sent a frame of {lie} bytes")), "{log}");
        assert_eq!((m.status() & 1, m.received(0)), (0, None));
        assert_eq!(passt.read(&mut [0; 8]).unwrap(), 0, "it hears of it");
    }
}

#[test]
fn a_new_driver_goes_on_where_the_stream_is() {
    let (mut m, mut passt) = machine();
    let all: Vec<_> = (0..200).map(|n| frame(OTHER, MAC, 60_000, n)).collect();
    all.iter().for_each(|frame| m.send(0, frame));
    m.run();
    let taken = m.handle.counters()[0].tx_frames.get() as usize;
    m.bring_up(ALL);
    m.send(0, &frame(OTHER, MAC, 99, 77));
    m.run();
    let reader = std::thread::spawn(move || {
        all.iter().take(taken).for_each(|frame| assert_eq!(next(&mut passt), *frame));
        assert_eq!(next(&mut passt), frame(OTHER, MAC, 99, 77));
    });
    while !reader.is_finished() {
        m.run();
    }
    reader.join().unwrap();
}

fn refused(config: &PasstConfig) -> String {
    match Passt::start(config) {
        Ok(_) => panic!("{config:?} is refused"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_is_missing_is_named_with_what_mends_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("passt.sock");
    let at = |path: &Path| PasstConfig { socket: Some(path.into()), ..PasstConfig::default() };
    let error = refused(&at(&path));
    assert!(error.contains(&format!("`passt --socket {}` begins one", path.display())), "{error}");
    drop(UnixListener::bind(&path).unwrap());
    let error = refused(&at(&path));
    assert!(error.contains("refused") && error.contains("begins one"), "{error}");
    assert!(refused(&at(Path::new(&"x".repeat(200)))).contains("cannot connect"));

    let missing = PasstError::Start { program: "passt".into(), cause: ErrorKind::NotFound.into() };
    assert!(missing.to_string().contains("`apt install passt`"), "{missing}");
    let program = |program: &Path| PasstConfig { program: Some(program.into()), ..PasstConfig::default() };
    let error = refused(&program(&path.join("nothing")));
    assert!(error.contains("cannot start") && !error.contains("apt"), "{error}");
    std::fs::write(dir.path().join("text"), "").unwrap();
    let error = refused(&program(&dir.path().join("text")));
    assert!(error.contains("`chmod +x`"), "{error}");

    let (datagrams, _other) = UnixDatagram::pair().unwrap();
    assert!(matches!(Passt::from_stream(datagrams.into()), Err(PasstError::NotAStream(_))));
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(matches!(Passt::from_stream(file.into()), Err(PasstError::NotAStream(_))));
    let listener = UnixListener::bind(dir.path().join("listener")).unwrap();
    assert!(matches!(Passt::from_stream(listener.into()), Err(PasstError::NotAStream(_))));
}

/// A program that says something and ends.
fn script(dir: &Path, content: &str) -> PasstConfig {
    let path = dir.join("passt");
    std::fs::write(&path, format!("#!/bin/sh\n{content}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    PasstConfig { program: Some(path), ..PasstConfig::default() }
}

#[test]
fn what_passt_complains_of_is_told_with_what_mends_it() {
    let dir = tempfile::tempdir().unwrap();
    let say = |what: &str| refused(&script(dir.path(), &format!("echo \"{what}\" >&2; exit 1")));
    let error = say("Couldn't create user namespace: No space left on device");
    assert!(error.contains("No space left on device: it needs user namespaces, which this host"), "{error}");
    let error = say("External interface not usable");
    assert!(error.contains("the host has no default route") && error.contains("`ip route`"), "{error}");
    let error = say("line one\nline two");
    assert!(error.ends_with("does not begin: line one; line two"), "{error}");
    assert!(refused(&script(dir.path(), "exit 1")).ends_with("it says nothing"));
    assert!(refused(&script(dir.path(), "yes >&2 & sleep 0.2; kill $!; exit 1")).len() < 40_000);

    let (passt, ports) = Passt::start(&script(dir.path(), "echo It is late >&2")).unwrap();
    assert_eq!((passt.messages(), ports.len()), (&["It is late".to_owned()][..], 1));
}

#[test]
fn ports_that_cannot_be_had_are_named() {
    let with = |forward: String| PasstConfig { forwards: vec![forward.parse().unwrap()], ..script_free() };
    for address in ["0.0.0.0", "127.0.0.1"] {
        let taken = TcpListener::bind((address, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = refused(&with(format!("{port}:80")));
        assert!(error.starts_with(&format!("forward {port}:80: cannot listen on port {port}")), "{error}");
        assert!(error.contains(&format!("`ss -ltnp 'sport = :{port}'` shows who has it")), "{error}");
    }
    let taken = UdpSocket::bind("[::1]:0").or_else(|_| UdpSocket::bind("127.0.0.1:0")).unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = refused(&with(format!("{port}:53/udp")));
    assert!(error.contains("ss -lunp"), "{error}");
    let error = refused(&with("192.0.2.77:8080:80".into()));
    assert!(error.contains("`ip address`"), "{error}");

    let low = PasstError::Privileged { forward: "80:8080".parse().unwrap() }.to_string();
    assert!(low.contains("net.ipv4.ip_unprivileged_port_start=80"), "{low}");
    assert!(low.ends_with("take another, as in 8080:8080"), "{low}");
}

/// What is looked at before any program is started.
fn script_free() -> PasstConfig {
    PasstConfig { program: Some("/nonexistent".into()), ..PasstConfig::default() }
}
