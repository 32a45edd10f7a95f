use super::*;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, tcgetattr};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

const LONG: Duration = Duration::from_secs(60);

/// A guest's receive FIFO that somebody else empties.
#[derive(Clone, Default)]
struct Fifo(Arc<(Mutex<FifoState>, Condvar)>);

#[derive(Default)]
struct FifoState {
    room: usize,
    got: Vec<u8>,
    closed: bool,
}

impl Fifo {
    fn with_room(room: usize) -> Self {
        let fifo = Self::default();
        fifo.make_room(room);
        fifo
    }
    fn make_room(&self, room: usize) {
        self.0.0.lock().unwrap().room += room;
        self.0.1.notify_all();
    }
    fn close(&self) {
        self.0.0.lock().unwrap().closed = true;
        self.0.1.notify_all();
    }
    fn wait_for(&self, n: usize) -> Vec<u8> {
        let state = self.0.0.lock().unwrap();
        let (state, _) = self.0.1.wait_timeout_while(state, LONG, |s| s.got.len() < n).unwrap();
        state.got.clone()
    }
}

impl InputSink for Fifo {
    fn push(&self, bytes: &[u8]) -> usize {
        let mut state = self.0.0.lock().unwrap();
        let n = if state.closed { 0 } else { bytes.len().min(state.room) };
        state.room -= n;
        state.got.extend(&bytes[..n]);
        self.0.1.notify_all();
        n
    }
    fn wait_for_room(&self, timeout: Duration) -> bool {
        let state = self.0.0.lock().unwrap();
        !self.0.1.wait_timeout_while(state, timeout, |s| s.room == 0 && !s.closed).unwrap().1.timed_out()
    }
    fn is_closed(&self) -> bool {
        self.0.0.lock().unwrap().closed
    }
}

/// A guest that says what is sent, and is gone when the sender is.
struct Speech(Receiver<Vec<u8>>);

impl OutputSource for Speech {
    fn take(&self, into: &mut Vec<u8>, timeout: Duration) -> Taken {
        match self.0.recv_timeout(timeout) {
            Ok(bytes) => {
                into.extend(&bytes);
                Taken::Bytes(bytes.len())
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Taken::TimedOut,
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => Taken::Closed,
        }
    }
}

fn speech() -> (Sender<Vec<u8>>, Box<dyn OutputSource>) {
    let (sender, receiver) = channel();
    (sender, Box::new(Speech(receiver)))
}

/// The user's side and the program's side of a terminal.
fn pty() -> (std::fs::File, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    (master.into(), slave)
}

fn is_raw(tty: &OwnedFd) -> bool {
    !tcgetattr(tty).unwrap().local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
}

fn modes(tty: &OwnedFd) -> String {
    let Termios { input_modes, output_modes, control_modes, local_modes, .. } = tcgetattr(tty).unwrap();
    format!("{input_modes:?} {output_modes:?} {control_modes:?} {local_modes:?}")
}

fn no_escape() -> OnEscape {
    Box::new(|wish| panic!("{wish:?}"))
}

#[test]
fn raw_mode_ends_with_its_guard() {
    let (_user, tty) = pty();
    let before = modes(&tty);
    let terminal = Terminal::of(tty.as_fd()).unwrap().unwrap();
    terminal.wake().unwrap();
    assert_eq!(modes(&tty), before, "not wanted yet");
    let raw = terminal.raw().unwrap();
    assert!(is_raw(&tty));
    terminal.rest();
    assert_eq!(modes(&tty), before);
    terminal.wake().unwrap();
    assert!(is_raw(&tty), "continued");
    drop(raw);
    assert_eq!(modes(&tty), before);
    terminal.wake().unwrap();
    assert_eq!(modes(&tty), before, "not wanted any more");
}

#[test]
fn raw_mode_ends_when_its_thread_unwinds() {
    let (_user, tty) = pty();
    let before = modes(&tty);
    let terminal = Terminal::of(tty.as_fd()).unwrap().unwrap();
    let unwound = std::thread::spawn(move || {
        let _raw = terminal.raw().unwrap();
        std::panic::resume_unwind(Box::new(()));
    });
    unwound.join().unwrap_err();
    assert_eq!(modes(&tty), before);
}

#[test]
fn a_pipe_is_no_terminal() {
    let (reader, _writer) = std::io::pipe().unwrap();
    assert!(Terminal::of(reader.as_fd()).unwrap().is_none());
}

#[test]
fn typed_bytes_arrive_however_slowly_the_guest_takes_them() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let fifo = Fifo::default();
    let _input = Input::start(reader.as_fd(), None, Box::new(fifo.clone()), no_escape()).unwrap();
    // More than the queue, the pipe and the FIFO hold together, with what would be escapes in a terminal.
    let sent: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
    let copy = sent.clone();
    let user = std::thread::spawn(move || writer.write_all(&copy));
    let mut total = 0;
    while total < sent.len() {
        fifo.make_room(7919);
        total = (total + 7919).min(sent.len());
        assert_eq!(fifo.wait_for(total).len(), total);
    }
    assert!(fifo.wait_for(sent.len()) == sent);
    user.join().unwrap().unwrap();
}

#[test]
fn what_was_sent_before_the_end_of_input_still_arrives() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let fifo = Fifo::default();
    let _input = Input::start(reader.as_fd(), None, Box::new(fifo.clone()), no_escape()).unwrap();
    writer.write_all(b"poweroff\n").unwrap();
    drop(writer);
    fifo.make_room(3);
    assert_eq!(fifo.wait_for(3), b"pow");
    fifo.make_room(100);
    assert_eq!(fifo.wait_for(9), b"poweroff\n");
}

#[test]
fn reading_ends_when_asked_to() {
    let (_user, tty) = pty();
    let (pipe, mut writer) = std::io::pipe().unwrap();
    let terminal = Terminal::of(tty.as_fd()).unwrap();
    // A silent user, and a guest that takes nothing although the queue is full.
    drop(Input::start(tty.as_fd(), terminal, Box::new(Fifo::default()), no_escape()).unwrap());
    let input = Input::start(pipe.as_fd(), None, Box::new(Fifo::default()), no_escape()).unwrap();
    let user = std::thread::spawn(move || {
        let _ = writer.write_all(&[b'x'; 400_000]);
    });
    std::thread::sleep(Duration::from_millis(50));
    drop(input);
    drop(pipe);
    user.join().unwrap();
}

#[test]
fn a_guest_that_is_gone_does_not_hold_up_the_writer() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let fifo = Fifo::default();
    let _input = Input::start(reader.as_fd(), None, Box::new(fifo.clone()), no_escape()).unwrap();
    fifo.close();
    drop(reader);
    let mut sent = 0;
    while writer.write_all(&[b'x'; 4096]).is_ok() {
        sent += 1;
        assert!(sent < 1000, "it reads on");
    }
}

#[test]
fn the_escape_key_works_in_a_terminal_also_when_the_guest_takes_nothing() {
    let (mut user, tty) = pty();
    let terminal = Terminal::of(tty.as_fd()).unwrap().unwrap();
    let _raw = terminal.raw().unwrap();
    let (sender, wishes) = channel();
    let fifo = Fifo::default();
    let on_escape = Box::new(move |wish| sender.send(wish).unwrap());
    let _input = Input::start(tty.as_fd(), Some(terminal), Box::new(fifo.clone()), on_escape).unwrap();
    user.write_all(b"abc\x03\x01").unwrap();
    user.write_all(b"p\x01a\x01x").unwrap();
    assert_eq!(wishes.recv_timeout(LONG), Ok(Escape::PowerButton));
    assert_eq!(wishes.recv_timeout(LONG), Ok(Escape::Leave));
    fifo.make_room(100);
    assert_eq!(fifo.wait_for(5), b"abc\x03\x01");
}

#[test]
fn output_goes_out_and_what_is_left_is_drained() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let (guest, source) = speech();
    let output = Output::start(writer.as_fd(), source).unwrap();
    drop(writer);
    guest.send(b"hello ".to_vec()).unwrap();
    let mut start = [0; 6];
    reader.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"hello ");
    let notice = output.notice();
    notice("[notice]");
    notice("[dropped: the last one is still waiting]");
    let all: Vec<u8> = vec![b'z'; 1 << 20];
    guest.send(all.clone()).unwrap();
    drop(guest);
    let user = std::thread::spawn(move || {
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        rest
    });
    assert!(output.finish(LONG));
    drop(notice);
    let rest = user.join().unwrap();
    assert!(rest.starts_with(b"[notice]") || rest.starts_with(b"zzz"));
    assert_eq!(rest.iter().filter(|b| **b == b'z').count(), all.len());
}

#[test]
fn a_terminal_that_nobody_reads_does_not_hold_up_the_end() {
    let (user, tty) = pty();
    let (pipe, writer) = std::io::pipe().unwrap();
    for to in [tty.as_fd(), writer.as_fd()] {
        let (guest, source) = speech();
        let output = Output::start(to, source).unwrap();
        guest.send(vec![b'z'; 1 << 20]).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let start = Instant::now();
        assert!(!output.finish(Duration::from_millis(50)), "most was lost");
        assert!(start.elapsed() < LONG);
        // The thread is gone, and with it the guest's listener.
        while guest.send(Vec::new()).is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    drop((user, pipe));
}

#[test]
fn a_reader_that_has_gone_is_no_reason_to_stop() {
    let (reader, writer) = std::io::pipe().unwrap();
    let (guest, source) = speech();
    let output = Output::start(writer.as_fd(), source).unwrap();
    drop(reader);
    while guest.send(b"x".to_vec()).is_ok() {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(!output.finish(LONG), "something was lost, and said so at once");
}

#[test]
fn the_users_descriptors_keep_their_flags() {
    let (_user, tty) = pty();
    let (reader, writer) = std::io::pipe().unwrap();
    let flags =
        || [tty.as_fd(), reader.as_fd(), writer.as_fd()].map(|fd| rustix::fs::fcntl_getfl(fd).unwrap());
    let before = flags();
    let (_guest, source) = speech();
    let (_guest, source2) = speech();
    let terminal = Terminal::of(tty.as_fd()).unwrap();
    let _input = Input::start(tty.as_fd(), terminal, Box::new(Fifo::with_room(1)), no_escape()).unwrap();
    let _input2 = Input::start(reader.as_fd(), None, Box::new(Fifo::with_room(1)), no_escape()).unwrap();
    let _outputs =
        [Output::start(tty.as_fd(), source).unwrap(), Output::start(writer.as_fd(), source2).unwrap()];
    assert_eq!(flags(), before);
    assert!(!before[0].contains(OFlags::NONBLOCK));
}

#[test]
fn a_file_is_written_where_its_position_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(b"before ").unwrap();
    let (guest, source) = speech();
    let output = Output::start(file.as_fd(), source).unwrap();
    guest.send(b"guest".to_vec()).unwrap();
    drop(guest);
    assert!(output.finish(LONG));
    file.write_all(b" after").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"before guest after");
}
