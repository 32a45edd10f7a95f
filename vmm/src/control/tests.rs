use super::*;
use crate::client::{Client, ClientError};
use crate::events::{CauseKind, EventKind, History};
use crate::log::Log;
use crate::snapshot::{SnapshotRequest, Then};
use drystone_observe::{Snapshot, Value};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Long enough that a test that needs it has failed.
const LONG: Duration = Duration::from_secs(60);

/// A machine that does as it is told, except that `reset` and a graceful stop wait for the gate, `power` fails and a paused
/// machine cannot be paused.
#[derive(Default)]
struct Stub {
    history: History,
    state: Mutex<Option<VmState>>,
    gate: Mutex<Gate>,
    changed: Condvar,
}

#[derive(Default)]
struct Gate {
    open: bool,
    waiting: usize,
    done: usize,
}

impl Stub {
    fn open(&self) {
        self.gate.lock().unwrap().open = true;
        self.changed.notify_all();
    }
    fn wait_for_waiting(&self, n: usize) {
        let gate = self.gate.lock().unwrap();
        let (_gate, late) = self.changed.wait_timeout_while(gate, LONG, |g| g.waiting < n).unwrap();
        assert!(!late.timed_out());
    }
}

impl Verbs for Stub {
    fn info(&self) -> Info {
        Info {
            id: "stub".into(),
            pid: 7,
            state: self.state.lock().unwrap().unwrap_or(VmState::Running),
            cpus: 2,
            memory_bytes: 512 << 20,
            uptime_ms: 1234,
            version: "0".into(),
            kernel: "vmlinux".into(),
            boot_protocol: "linux".into(),
            resets: 3,
            end: None,
            exits: [("pio_writes".to_owned(), 9)].into(),
            exit_latency: [("pio_writes".to_owned(), [(1024, 1)].into())].into(),
            msrs: Vec::new(),
            snapshot: None,
        }
    }
    fn metrics(&self) -> Snapshot {
        Snapshot([("block.root.reads".to_owned(), Value::Count(42))].into())
    }
    fn history(&self) -> History {
        self.history.clone()
    }
    fn act(&self, action: Action) -> Result<Info, VerbError> {
        match action {
            Action::Power => return Err(VerbError::Failed("no button".into())),
            Action::CancelSnapshot => self.open(),
            Action::Reset | Action::StopGracefully { .. } | Action::Snapshot(_) => {
                let mut gate = self.gate.lock().unwrap();
                gate.waiting += 1;
                self.changed.notify_all();
                let (mut gate, _) = self.changed.wait_timeout_while(gate, LONG, |g| !g.open).unwrap();
                gate.done += 1;
            }
            Action::Stop => panic!("a bug in the machine"),
            Action::Pause if self.info().state == VmState::Paused => {
                return Err(VerbError::Illegal("it is paused".into()));
            }
            Action::Pause => *self.state.lock().unwrap() = Some(VmState::Paused),
            Action::Resume => *self.state.lock().unwrap() = Some(VmState::Running),
            Action::CtrlAltDel | Action::Nmi { .. } => {}
            Action::DiskAdd(_) | Action::DiskRemove { .. } => {}
            Action::NetAdd(_) | Action::NetRemove { .. } => {}
            Action::NetLink { .. } | Action::NetLimit { .. } | Action::RngLimit(_) => {}
            Action::DiskResize { .. } | Action::DiskLimit { .. } => {}
        }
        Ok(self.info())
    }
}

struct Setup {
    _dir: tempfile::TempDir,
    path: PathBuf,
    stub: Arc<Stub>,
    server: Option<Server>,
}

fn serve(limits: Limits) -> Setup {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let stub = Arc::new(Stub::default());
    let server = Server::start(&path, stub.clone(), limits, Log::none()).unwrap();
    Setup { _dir: dir, path, stub, server: Some(server) }
}

fn quick() -> Limits {
    let time = Duration::from_millis(300);
    Limits {
        connections: 3,
        verbs: 2,
        body: 1000,
        head_time: time,
        body_time: time,
        stall_time: time,
        ..Limits::default()
    }
}

impl Setup {
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        stream
    }
    /// Sends raw bytes and returns all that comes until the server closes.
    fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect();
        // It may be refused before it is all sent.
        let _ = stream.write_all(bytes.as_ref());
        rest(stream)
    }
    fn request(&self, line: &str, more: &str) -> (u16, String) {
        let answer = self.raw(format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{more}"));
        (status(&answer), answer)
    }
    fn client(&self) -> Client {
        Client::new(&self.path, LONG)
    }
}

fn rest(mut stream: UnixStream) -> String {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => (),
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => (),
        Err(e) => panic!("the connection stays open: {e}"),
    }
    String::from_utf8(answer).unwrap()
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {answer:?}")).parse().unwrap()
}

#[test]
fn every_request_gets_the_status_that_fits() {
    let server = serve(Limits::default());
    let cases = [
        ("GET /v1", 200, "PUT /v1/vm/resume"),
        ("GET /v1/vm", 200, "\"memory_bytes\":536870912"),
        ("GET /v1/vm?x=y", 200, "\"state\":\"running\""),
        ("HEAD /v1/vm", 200, "content-type: application/json"),
        ("GET /", 404, "GET /v1 lists"),
        ("GET /v2/vm", 404, "error"),
        ("PUT /v1/vm/explode", 404, "error"),
        ("PUT /v1/vm/pause/", 404, "error"),
        ("POST /v1/vm", 405, "allow: GET, HEAD"),
        ("GET /v1/vm/metrics", 200, "{\"block.root.reads\":42}"),
        ("PUT /v1/vm/metrics", 405, "allow: GET, HEAD"),
        ("GET /v1/vm/pause", 405, "allow: PUT"),
        ("DELETE /v1", 405, "error"),
        ("BREWSOMETHINGLONG /v1/vm", 405, "this method"),
        ("GET /v1/vm/events", 200, "{\"events\":[]}"),
        ("GET /v1/vm/events?since=7&follow=false&", 200, "events"),
        ("HEAD /v1/vm/events?follow=true", 200, "content-type: application/json"),
        ("GET /v1/vm/events?since=-1", 400, "since=N"),
        ("GET /v1/vm/events?follow=maybe", 400, "follow=true"),
        ("GET /v1/vm/events?colour=grey", 400, "since=N and follow=true"),
        ("PUT /v1/vm/events", 405, "allow: GET, HEAD"),
        ("PUT /v1/vm/nmi", 200, "running"),
        ("PUT /v1/vm/ctrl-alt-del", 200, "running"),
        ("PUT /v1/vm/pause", 200, "\"state\":\"paused\""),
        ("PUT /v1/vm/pause", 409, "{\"error\":\"it is paused\"}"),
        ("PUT /v1/vm/resume", 200, "\"state\":\"running\""),
        ("PUT /v1/vm/power", 500, "{\"error\":\"no button\"}"),
        ("PUT /v1/vm/stop", 500, "internal error"),
        ("GET /v1/vm", 200, "running"),
    ];
    for (line, code, part) in cases {
        let (status, answer) = server.request(line, "\r\n");
        assert_eq!(status, code, "{line}: {answer}");
        assert!(answer.contains(part), "{line}: {answer}");
    }
}

#[test]
fn the_socket_is_the_users_alone_and_goes_with_the_server() {
    let mut server = serve(Limits::default());
    assert_eq!(std::fs::metadata(&server.path).unwrap().permissions().mode() & 0o777, 0o600);
    let stub: Arc<dyn Verbs> = server.stub.clone();
    let again = Server::start(&server.path, stub, Limits::default(), Log::none());
    assert!(again.err().unwrap().to_string().contains("cannot listen: Address"));
    server.server = None;
    assert!(!server.path.exists());
}

#[test]
fn bodies_are_empty_or_an_empty_object() {
    let server = serve(quick());
    let put = |body: &str| {
        server.request("PUT /v1/vm/resume", &format!("content-length: {}\r\n\r\n{body}", body.len())).0
    };
    for good in ["", "{}", " { } \n"] {
        assert_eq!(put(good), 200, "{good:?}");
    }
    for bad in ["{", "[]", "1", "{\"timeout\": 1}", "{\"mode\": \"graceful\"}", "\0", "{} {}"] {
        assert_eq!(put(bad), 400, "{bad:?}");
    }
    assert_eq!(put(&" ".repeat(1000)), 200);
    assert_eq!(put(&" ".repeat(1001)), 413);
    let announced = server.request("PUT /v1/vm/resume", "content-length: 4000000000\r\n\r\n");
    assert_eq!(announced.0, 413, "without waiting for it");
    let chunk = format!("258\r\n{}\r\n", " ".repeat(600));
    let chunked = server
        .request("PUT /v1/vm/resume", &format!("transfer-encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n"));
    assert_eq!(chunked.0, 413);
    let late = server.request("PUT /v1/vm/resume", "content-length: 5\r\n\r\n{");
    assert_eq!(late.0, 408);
}

#[test]
fn heads_are_bounded() {
    let server = serve(quick());
    let long = format!("x: {}\r\n\r\n", "y".repeat(20 << 10));
    assert_eq!(server.request("GET /v1/vm", &long).0, 431);
    let many = "x: y\r\n".repeat(70) + "\r\n";
    assert_eq!(server.request("GET /v1/vm", &many).0, 431);
    for garbage in [
        "\x16\x03\x01\x02\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET /v1 HTTP/1.1\r\nhost\r\n\r\n",
    ] {
        assert_eq!(status(&server.raw(garbage)), 400, "{garbage:?}");
    }
    assert_eq!(server.request("GET /v1/vm", "\r\n").0, 200);
}

#[test]
fn a_connection_serves_many_requests() {
    let server = serve(Limits::default());
    let two =
        "GET /v1/vm HTTP/1.1\r\nhost: x\r\n\r\nGET /v1/vm HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert_eq!(server.raw(two).matches("HTTP/1.1 200").count(), 2);
}

#[test]
fn silent_peers_hold_their_places_only_for_a_while() {
    let server = serve(quick());
    let mut idle: Vec<_> = (0..3).map(|_| server.connect()).collect();
    idle[1].write_all(b"GET /v1/vm HTTP/1.1\r\nhost:").unwrap();
    idle[2].write_all(b"GET /v1/vm HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    // All places are taken: this one waits until they are free again.
    assert_eq!(server.request("GET /v1/vm", "\r\n").0, 200);
    let answers: Vec<_> = idle.into_iter().map(rest).collect();
    assert_eq!(answers[2].matches("HTTP/1.1 200").count(), 1, "an idle connection is closed, too");
}

#[test]
fn a_peer_that_does_not_read_its_answers_is_dropped() {
    let server = serve(quick());
    let deaf: Vec<_> = (0..3)
        .map(|_| {
            let mut stream = server.connect();
            std::thread::spawn(move || {
                let request = "GET /v1/vm HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
                // It sends until it is refused.
                let refused = loop {
                    if let Err(e) = stream.write_all(request.as_bytes()) {
                        break e.kind();
                    }
                };
                assert!(matches!(refused, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{refused}");
            })
        })
        .collect();
    deaf.into_iter().for_each(|d| d.join().unwrap());
    assert_eq!(server.request("GET /v1/vm", "\r\n").0, 200);
}

#[test]
fn the_state_is_told_while_a_verb_takes_its_time() {
    let server = serve(Limits { verbs: 2, ..Limits::default() });
    let client = server.client();
    let first = std::thread::spawn(move || client.act(Action::Reset));
    server.stub.wait_for_waiting(1);
    let (sender, done) = std::sync::mpsc::channel();
    for _ in 0..4 {
        let (client, sender) = (server.client(), sender.clone());
        std::thread::spawn(move || drop(sender.send(client.act(Action::Reset))));
    }
    // Whichever comes next has the second place and waits for its turn; the others are refused.
    for _ in 0..3 {
        let refused = done.recv_timeout(LONG).unwrap();
        assert!(matches!(refused, Err(ClientError::Refused { status: 503, .. })), "{refused:?}");
    }
    assert_eq!(server.client().info().unwrap().state, VmState::Running);
    assert_eq!(server.stub.gate.lock().unwrap().waiting, 1, "one verb at a time");
    server.stub.open();
    first.join().unwrap().unwrap();
    done.recv_timeout(LONG).unwrap().unwrap();
}

#[test]
fn a_snapshot_is_cancelled_while_it_has_its_turn() {
    let server = serve(Limits { verbs: 1, ..Limits::default() });
    let client = server.client();
    let request = SnapshotRequest { dir: "/snapshot".into(), memory_dir: None, then: Then::GoOn };
    let writing = std::thread::spawn(move || client.act(Action::Snapshot(request)));
    server.stub.wait_for_waiting(1);
    let other = server.client().act(Action::Pause);
    assert!(matches!(other, Err(ClientError::Refused { status: 503, .. })), "{other:?}");
    server.client().act(Action::CancelSnapshot).unwrap();
    writing.join().unwrap().unwrap();
}

#[test]
fn a_graceful_stop_takes_nobodys_turn() {
    let server = serve(Limits { verbs: 2, ..Limits::default() });
    let timeout = Duration::from_secs(1);
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let client = server.client();
            std::thread::spawn(move || client.act(Action::StopGracefully { timeout }))
        })
        .collect();
    server.stub.wait_for_waiting(2);
    // Both of its places are taken, and none of the others'.
    let third = server.client().act(Action::StopGracefully { timeout });
    assert!(matches!(third, Err(ClientError::Refused { status: 503, .. })), "{third:?}");
    assert_eq!(server.client().act(Action::Pause).unwrap().state, VmState::Paused);
    server.stub.open();
    waiting.into_iter().for_each(|w| drop(w.join().unwrap().unwrap()));
}

#[test]
fn events_are_told_from_the_first_to_the_last() {
    let mut server = serve(Limits::default());
    let history = server.stub.history();
    history.push(EventKind::Started, Some(CauseKind::Operator), None);
    history.push(EventKind::PowerButton, None, None);
    let seen = server.client().events(1).unwrap();
    assert_eq!(seen.iter().map(|r| r.event).collect::<Vec<_>>(), [EventKind::PowerButton]);

    let (client, (sender, lines)) = (server.client(), std::sync::mpsc::channel());
    let follower = std::thread::spawn(move || client.follow(0, |record| sender.send(record).is_ok()));
    let next = || lines.recv_timeout(LONG).unwrap().event;
    assert_eq!((next(), next()), (EventKind::Started, EventKind::PowerButton));
    history.push(EventKind::GuestPowerOff, None, None);
    assert_eq!(next(), EventKind::GuestPowerOff);
    // What comes right before the end is told, and then the answer ends.
    history.push(EventKind::Stopped, Some(CauseKind::GuestPowerOff), None);
    server.server = None;
    assert_eq!(next(), EventKind::Stopped);
    follower.join().unwrap().unwrap();
}

#[test]
fn those_who_follow_leave_room_for_others_and_make_it_when_they_go() {
    let server = serve(Limits { followers: 1, ..quick() });
    let follow = "GET /v1/vm/events?follow=true HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut first = server.connect();
    first.write_all(follow.as_bytes()).unwrap();
    let mut head = [0; 12];
    first.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    assert_eq!(server.request("GET /v1/vm/events?follow=true", "\r\n").0, 503);
    assert_eq!(server.request("GET /v1/vm", "\r\n").0, 200);
    // It is there for longer than a connection may be silent, because it is told that nothing happens.
    std::thread::sleep(3 * quick().stall_time);
    server.stub.history().push(EventKind::Nmi, None, None);
    let mut seen = String::new();
    while !seen.contains("\"nmi\"") {
        let mut byte = [0];
        first.read_exact(&mut byte).unwrap();
        seen.push(char::from(byte[0]));
    }
    drop(first);
    // That it has gone is noticed soon, though nothing happens.
    let place = || server.client().follow(0, |_| false);
    let start = std::time::Instant::now();
    while place().is_err() {
        assert!(start.elapsed() < LONG, "its place is never free");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn peers_that_leave_do_not_pile_up_work() {
    let server = serve(Limits { verbs: 2, ..Limits::default() });
    for _ in 0..50 {
        let mut stream = server.connect();
        stream.write_all(b"PUT /v1/vm/reset HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    }
    server.stub.wait_for_waiting(1);
    // Those before it in the backlog were looked at when this one has its answer.
    assert_eq!(server.request("PUT /v1/vm/resume", "\r\n").0, 503);
    assert_eq!(server.stub.gate.lock().unwrap().waiting, 1, "the others wait or were refused");
    server.stub.open();
}

#[test]
fn an_answer_that_is_on_its_way_outlives_the_server() {
    let mut server = serve(Limits::default());
    let client = server.client();
    let asked = std::thread::spawn(move || client.act(Action::Reset));
    server.stub.wait_for_waiting(1);
    let stub = server.stub.clone();
    let end = server.server.take();
    let opener = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        stub.open();
    });
    drop(end);
    asked.join().unwrap().unwrap();
    opener.join().unwrap();
}

#[test]
fn a_verb_that_hangs_does_not_hold_up_the_end() {
    let mut server = serve(Limits::default());
    let client = server.client();
    let asked = std::thread::spawn(move || client.act(Action::Reset));
    server.stub.wait_for_waiting(1);
    server.server = None;
    assert!(matches!(asked.join().unwrap(), Err(ClientError::Protocol { .. })));
    assert_eq!(server.stub.gate.lock().unwrap().done, 0, "it was not waited for");
    server.stub.open();
}

#[test]
fn the_client_says_what_went_wrong() {
    let server = serve(Limits::default());
    let info = server.client().info().unwrap();
    assert_eq!(info, server.stub.info());
    server.client().act(Action::Pause).unwrap();
    let refused = server.client().act(Action::Pause).unwrap_err();
    assert!(
        matches!(&refused, ClientError::Refused { status: 409, why } if why == "it is paused"),
        "{refused}"
    );
    let nobody = Client::new(&server.path.with_file_name("none"), LONG);
    assert!(nobody.info().unwrap_err().is_absent());
    // Somebody who listens and says nothing, and somebody who talks nonsense.
    let mute = server.path.with_file_name("mute");
    let listener = std::os::unix::net::UnixListener::bind(&mute).unwrap();
    let late = Client::new(&mute, Duration::from_millis(50)).info().unwrap_err();
    assert!(matches!(late, ClientError::Timeout { .. }) && !late.is_absent());
    drop(listener.accept());
    let talk = std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"hello\r\n\r\n"));
    let nonsense = Client::new(&mute, LONG).info().unwrap_err();
    assert!(matches!(nonsense, ClientError::Protocol { .. }), "{nonsense}");
    talk.join().unwrap().unwrap();
    let all = Client::infos(&[server.client(), nobody, server.client()]);
    assert!(matches!(&all[..], [Ok(_), Err(_), Ok(_)]));
}

#[test]
fn unknown_fields_and_states_of_a_later_version_are_understood() {
    let mut value = serde_json::to_value(Stub::default().info()).unwrap();
    value["state"] = "dreaming".into();
    value["colour"] = "grey".into();
    assert_eq!(serde_json::from_value::<Info>(value).unwrap().state, VmState::Unknown);
}

/// What fuzzing starts from, and what it found.
#[test]
fn the_corpus_gets_answers() {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/control");
    let mut seen = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        let answer = fuzz::request(&std::fs::read(&path).unwrap());
        // The name begins with the status that the first answer must have, or with 000 for none.
        let name = path.file_name().unwrap().to_str().unwrap();
        if let Some(expected) = name.get(..3).and_then(|n| n.parse::<u16>().ok()) {
            let text = String::from_utf8_lossy(&answer);
            let status = if answer.is_empty() { 0 } else { status(&text) };
            assert_eq!(status, expected, "{name}: {text}");
        }
        seen += 1;
    }
    assert!(seen >= 10, "the corpus is not there");
}
