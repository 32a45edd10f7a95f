//! What passt, or whoever is at the other end of its socket, may send and read, and when.
use super::input::Input;
use drystone_memory::{Gather, Scatter};
use drystone_net::{FRAME_HEADER, MAX_FRAME, Passt, Port};
use rustix::net::sockopt;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

const STEPS: usize = 256;
/// What becomes of longer frames than passt takes (errno(3) of Linux).
const EMSGSIZE: i32 = 90;
/// The longest frame that passt takes.
const LONGEST: usize = 65535;

/// A port, and a peer that knows what each side must have got.
struct Peer {
    port: Box<dyn Port>,
    /// Gone once it is closed.
    stream: Option<UnixStream>,
    /// What the port has taken, as it must come, and how much of it did.
    taken: Vec<u8>,
    seen: usize,
    /// What the port was sent and has not given, as on the stream.
    given: VecDeque<u8>,
    /// The port has said that it is gone.
    gone: bool,
    seed: u8,
}

/// Runs `data` as a list of steps.
///
/// # Panics
/// If anything but whole frames goes either way, in another order, twice or not at all; if a length that no frame has is taken for one;
/// if the port waits.
pub fn passt_frames(data: &[u8]) {
    let mut input = Input::new(data);
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let same = ours.try_clone().unwrap();
    let (_, mut ports) = Passt::from_stream(OwnedFd::from(ours)).unwrap();
    // As little as the host may keep, so that frames are sent in parts.
    sockopt::set_socket_send_buffer_size(&same, 1).unwrap();
    drop(same);
    let mut peer = Peer {
        port: ports.remove(0),
        stream: Some(theirs),
        taken: Vec::new(),
        seen: 0,
        given: VecDeque::new(),
        gone: false,
        seed: 0,
    };
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        peer.step(&mut input);
    }
    peer.settle();
}

impl Peer {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 16 {
            0..=3 => self.send(input),
            4 | 5 => self.give_frame(input),
            6 | 7 => {
                let bytes = input.take(16).to_vec();
                self.give(&bytes);
            }
            8 => self.flush(),
            9..=11 => self.read(usize::from(input.u16()) * 4),
            12..=14 => self.receive(),
            _ if input.u8().is_multiple_of(4) => self.stream = None,
            _ => {}
        }
    }

    fn len(input: &mut Input<'_>) -> usize {
        match input.u8() % 8 {
            0 => LONGEST - 2 + usize::from(input.u8() % 4),
            1 => usize::from(input.u16()).max(14),
            _ => 14 + usize::from(input.u8()),
        }
    }

    fn content(&mut self, len: usize) -> Vec<u8> {
        self.seed = self.seed.wrapping_add(41);
        (0..len).map(|n| (n as u8).wrapping_mul(7) ^ self.seed).collect()
    }

    /// The guest sends a batch.
    fn send(&mut self, input: &mut Input<'_>) {
        let lengths: Vec<usize> = (0..1 + input.u8() % 8).map(|_| Self::len(input)).collect();
        let frames: Vec<Vec<u8>> = lengths.into_iter().map(|len| self.content(len)).collect();
        let piece = 1 + usize::from(input.u16());
        let batch: Vec<Gather<'_>> = frames
            .iter()
            .map(|frame| {
                let mut gather = Gather::default();
                gather.push_host(&[0; FRAME_HEADER]);
                frame.chunks(piece.max(frame.len() / 1500)).for_each(|piece| gather.push_host(piece));
                gather
            })
            .collect();
        let mut rest = 0;
        while rest < batch.len() {
            let (taken, outcome) = self.port.send(&batch[rest..]);
            for frame in &frames[rest..rest + taken] {
                assert!(frame.len() <= LONGEST);
                self.taken.extend((frame.len() as u32).to_be_bytes());
                self.taken.extend(frame);
            }
            rest += taken;
            match outcome {
                Ok(()) => assert_eq!(rest, batch.len()),
                Err(e) if self.is_gone(&e) || e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => {
                    assert!(e.raw_os_error() == Some(EMSGSIZE) && frames[rest].len() > LONGEST, "{e}");
                    rest += 1;
                }
            }
        }
        assert!(!self.gone || self.stream.is_none() || self.nonsense());
    }

    fn give_frame(&mut self, input: &mut Input<'_>) {
        let len = match input.u8() % 16 {
            0 => MAX_FRAME,
            1 => usize::from(input.u16()).max(1),
            _ => 1 + usize::from(input.u8()),
        };
        let mut bytes = (len as u32).to_be_bytes().to_vec();
        bytes.extend(self.content(len));
        // Sometimes not all of it.
        let cut = usize::from(input.u8()) * 700;
        bytes.truncate(if cut.is_multiple_of(3) { bytes.len() } else { cut });
        self.give(&bytes);
    }

    fn give(&mut self, bytes: &[u8]) {
        let Some(stream) = &mut self.stream else { return };
        // A port that has left is an error here; what there is no room for is as if it was never meant.
        let given = stream.write(bytes).unwrap_or(0);
        self.given.extend(&bytes[..given]);
    }

    /// The peer reads, which must be what was taken.
    fn read(&mut self, most: usize) {
        let Some(stream) = &mut self.stream else { return };
        let mut bytes = vec![0; most];
        let len = stream.read(&mut bytes).unwrap_or(0);
        let expected = self.taken.get(self.seen..self.seen + len);
        assert!(expected == Some(&bytes[..len]), "{len} bytes at {}", self.seen);
        self.seen += len;
        if self.seen == self.taken.len() {
            (self.taken, self.seen) = (Vec::new(), 0);
        }
    }

    fn flush(&mut self) {
        if let Err(e) = self.port.flush() {
            let stalled = e.kind() == ErrorKind::WouldBlock && !self.taken.is_empty();
            assert!(self.is_gone(&e) || stalled, "{e}");
        }
    }

    /// The length at the front of what was given.
    fn next(&self) -> Option<usize> {
        let length: Vec<u8> = self.given.iter().copied().take(4).collect();
        Some(u32::from_be_bytes(length.try_into().ok()?) as usize)
    }

    fn nonsense(&self) -> bool {
        self.next().is_some_and(|len| !(1..=MAX_FRAME).contains(&len))
    }

    fn receive(&mut self) {
        let mut bytes = vec![0xee; FRAME_HEADER + MAX_FRAME];
        let mut room = Scatter::default();
        room.push_host(&mut bytes);
        let outcome = self.port.receive(&mut room);
        let next = self.next().filter(|len| self.given.len() >= 4 + len && !self.nonsense());
        match (outcome, next) {
            (Ok(len), Some(expected)) => {
                assert!(!self.gone && len == FRAME_HEADER + expected);
                assert_eq!(bytes[..FRAME_HEADER], [0; FRAME_HEADER]);
                let frame: Vec<u8> = self.given.drain(..4 + expected).skip(4).collect();
                assert!(frame == bytes[FRAME_HEADER..len]);
            }
            (Ok(len), None) => panic!("a frame of {len} bytes that nobody sent"),
            (Err(e), next) => {
                let known = self.gone;
                let gone = self.is_gone(&e);
                assert!(gone || e.kind() == ErrorKind::WouldBlock, "{e}");
                assert!(known || next.is_none(), "a frame is lost: {e}");
                let why = self.stream.is_none() || self.nonsense();
                assert!(known || gone == why, "gone: {gone}, with a reason for it: {why}");
            }
        }
    }

    fn is_gone(&mut self, error: &std::io::Error) -> bool {
        let gone = self.port.is_gone(error);
        assert!(gone || !self.gone, "it has come back");
        self.gone = gone;
        gone
    }

    /// The peer reads all that there is: nothing was lost.
    fn settle(&mut self) {
        while !self.gone && self.stream.is_some() {
            let before = self.seen;
            self.flush();
            self.read(1 << 20);
            if self.taken.is_empty() {
                break;
            }
            assert_ne!(self.seen, before, "something is lost");
        }
        while !self.gone && self.next().is_some_and(|len| self.given.len() >= 4 + len) {
            self.receive();
        }
    }
}
