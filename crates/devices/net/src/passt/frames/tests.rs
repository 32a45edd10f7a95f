use super::*;
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// A stream whose other end a test holds.
#[derive(Default)]
struct Pipe {
    /// What the peer has been given.
    sent: RefCell<Vec<u8>>,
    /// How much more it takes.
    room: Cell<usize>,
    /// What waits to be read, and how much of it one call gives.
    waiting: RefCell<VecDeque<u8>>,
    at_once: Cell<usize>,
    left: Cell<bool>,
    closed: Cell<bool>,
}

impl Stream for Rc<Pipe> {
    fn write(&self, bytes: &Gather<'_>) -> io::Result<usize> {
        if self.left.get() {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let mut out = vec![0; bytes.bytes().min(self.room.get())];
        if out.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        bytes.copy_to(0, &mut out);
        self.room.set(self.room.get() - out.len());
        self.sent.borrow_mut().extend(&out);
        Ok(out.len())
    }
    fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() && !self.left.get() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let len = waiting.len().min(into.len()).min(self.at_once.get());
        waiting.drain(..len).zip(into).for_each(|(from, to)| *to = from);
        Ok(len)
    }
    fn close(&self) {
        self.closed.set(true);
    }
}

fn frames() -> (Frames<Rc<Pipe>>, Rc<Pipe>) {
    let pipe = Rc::new(Pipe::default());
    pipe.at_once.set(usize::MAX);
    (Frames::new(pipe.clone(), "farewell".into()), pipe)
}

fn content(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|n| (seed * 31 + n * 7) as u8).collect()
}

/// As it is on the stream.
fn framed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes(), frame].concat()
}

/// With a header, in pieces of at most `piece` bytes.
fn gather(frame: &[u8], piece: usize) -> Gather<'_> {
    let mut gather = Gather::default();
    gather.push_host(&[0xaa; FRAME_HEADER]);
    frame.chunks(piece).for_each(|piece| gather.push_host(piece));
    gather
}

fn receive(frames: &mut Frames<Rc<Pipe>>) -> io::Result<Vec<u8>> {
    let mut room = vec![0xee; FRAME_HEADER + MAX_FRAME];
    let mut scatter = Scatter::default();
    scatter.push_host(&mut room);
    let len = frames.receive(&mut scatter)?;
    room.truncate(len);
    assert_eq!(room.drain(..FRAME_HEADER).collect::<Vec<_>>(), [0; FRAME_HEADER]);
    Ok(room)
}

#[test]
fn frames_are_taken_apart_wherever_the_stream_is_cut() {
    let all: Vec<Vec<u8>> = [1, 14, 5, 60].iter().enumerate().map(|(n, len)| content(n, *len)).collect();
    let stream: Vec<u8> = all.iter().flat_map(|f| framed(f)).collect();
    for cut in 0..=stream.len() {
        let (mut frames, pipe) = frames();
        let mut got = Vec::new();
        for part in [&stream[..cut], &stream[cut..]] {
            pipe.waiting.borrow_mut().extend(part);
            while let Ok(frame) = receive(&mut frames) {
                got.push(frame);
            }
        }
        assert_eq!(got, all, "cut at {cut}");
    }
}

#[test]
fn a_frame_that_went_in_part_is_finished_before_another() {
    let all: Vec<Vec<u8>> = [20, 33, 14].iter().enumerate().map(|(n, len)| content(n, *len)).collect();
    let stream: Vec<u8> = all.iter().flat_map(|f| framed(f)).collect();
    for cut in 0..stream.len() {
        let (mut frames, pipe) = frames();
        pipe.room.set(cut);
        let given: Vec<_> = all.iter().map(|f| gather(f, 9)).collect();
        let (taken, outcome) = frames.send(&given);
        let begun = [0, 24, 61].iter().filter(|start| **start < cut).count();
        assert_eq!(taken, begun, "cut at {cut}");
        assert_eq!(outcome.is_ok(), taken == 3, "cut at {cut}");
        assert!(outcome.err().is_none_or(|e| e.kind() == ErrorKind::WouldBlock));
        // A byte at a time, and nothing else meanwhile.
        while frames.flush().is_err() {
            assert_eq!(frames.send(&given[taken..]).0, 0);
            pipe.room.set(1);
        }
        pipe.room.set(usize::MAX);
        let (more, outcome) = frames.send(&given[taken..]);
        assert_eq!((taken + more, outcome.is_ok()), (3, true));
        assert_eq!(*pipe.sent.borrow(), stream, "cut at {cut}");
    }
}

#[test]
fn a_batch_of_more_pieces_than_the_host_takes_is_sent_all_the_same() {
    let all: Vec<Vec<u8>> = (0..40).map(|n| content(n, 500)).collect();
    let (mut frames, pipe) = frames();
    pipe.room.set(usize::MAX);
    let given: Vec<_> = all.iter().map(|f| gather(f, 7)).collect();
    assert!(given.iter().map(Gather::pieces).sum::<usize>() > 2 * MAX_PIECES);
    assert_eq!(frames.send(&given).0, 40);
    assert_eq!(*pipe.sent.borrow(), all.iter().flat_map(|f| framed(f)).collect::<Vec<_>>());
}

#[test]
fn a_frame_that_passt_does_not_take_is_lost_alone() {
    let (short, long, longest) = (content(1, 14), content(2, 65536), content(3, 65535));
    let (mut frames, pipe) = frames();
    pipe.room.set(usize::MAX);
    let given: Vec<_> = [&short, &long, &longest].map(|f| gather(f, 9000)).into();
    let (taken, outcome) = frames.send(&given);
    assert_eq!((taken, outcome.unwrap_err().raw_os_error()), (1, Some(libc::EMSGSIZE)));
    assert_eq!(frames.send(&given[2..]).0, 1);
    assert_eq!(*pipe.sent.borrow(), [framed(&short), framed(&longest)].concat());
}

#[test]
fn a_length_that_none_has_ends_it() {
    for bad in [0, MAX_FRAME as u32 + 1, 0x8000_0000, u32::MAX] {
        let (mut frames, pipe) = frames();
        pipe.waiting.borrow_mut().extend(framed(b"good").into_iter().chain(bad.to_be_bytes()));
        assert_eq!(receive(&mut frames).unwrap(), b"good");
        assert!(!frames.has_ended());
        let error = receive(&mut frames).unwrap_err();
        assert!(error.to_string().contains(&format!("a frame of {bad} bytes")), "{error}");
        assert!(frames.has_ended() && pipe.closed.get());
        assert_eq!(frames.flush().unwrap_err().to_string(), error.to_string());
        pipe.waiting.borrow_mut().extend(framed(b"more"));
        assert!(receive(&mut frames).is_err(), "never again");
        assert_eq!(frames.send(&[gather(b"an Ethernet frame", 4)]).0, 0);
    }
    let (mut frames, pipe) = frames();
    let longest = content(5, MAX_FRAME);
    pipe.waiting.borrow_mut().extend(framed(&longest));
    assert_eq!(receive(&mut frames).unwrap(), longest);
}

#[test]
fn what_came_before_a_peer_left_is_still_given() {
    let (mut frames, pipe) = frames();
    pipe.waiting.borrow_mut().extend([framed(b"one"), framed(b"two")].concat());
    pipe.left.set(true);
    assert_eq!(receive(&mut frames).unwrap(), b"one");
    assert_eq!(receive(&mut frames).unwrap(), b"two");
    assert_eq!(receive(&mut frames).unwrap_err().to_string(), "farewell");
    assert!(frames.has_ended());

    let (mut frames, pipe) = self::frames();
    pipe.left.set(true);
    let (taken, outcome) = frames.send(&[gather(b"an Ethernet frame", 4)]);
    assert_eq!((taken, outcome.unwrap_err().to_string()), (0, "farewell".into()));
    assert!(frames.has_ended() && pipe.closed.get());
}

#[derive(Debug, Clone)]
enum Op {
    Send(Vec<(usize, usize)>),
    Flush,
    /// The peer takes some bytes.
    Take(usize),
    /// The peer sends a frame.
    Give(usize),
    /// How much one call reads.
    AtOnce(usize),
    Receive,
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![4 => 14..200usize, 1 => 14..3000usize, 1 => 60000..65540usize];
    let frame = (len.clone(), prop_oneof![1..5usize, 1..2000usize, Just(70000)]);
    prop_oneof![
        proptest::collection::vec(frame, 1..8).prop_map(Op::Send),
        Just(Op::Flush),
        prop_oneof![0..40usize, 0..100_000usize].prop_map(Op::Take),
        len.prop_map(Op::Give),
        prop_oneof![1..40usize, 1..300_000usize].prop_map(Op::AtOnce),
        Just(Op::Receive),
        Just(Op::Receive),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// What was taken is what the peer gets, and what it gives is what is received: whole, in order, nothing twice.
    #[test]
    fn both_directions_are_what_a_model_says(ops in proptest::collection::vec(op(), 1..60)) {
        let (mut frames, pipe) = frames();
        let (mut expected, mut given, mut seed) = (Vec::new(), VecDeque::new(), 0);
        for op in ops {
            match op {
                Op::Send(shapes) => {
                    let all: Vec<Vec<u8>> = shapes.iter().map(|(len, _)| { seed += 1; content(seed, *len) }).collect();
                    let batch: Vec<_> = all.iter().zip(&shapes).map(|(f, (_, piece))| gather(f, *piece)).collect();
                    let (taken, outcome) = frames.send(&batch);
                    all.iter().take(taken).for_each(|f| expected.extend(framed(f)));
                    match outcome {
                        Ok(()) => prop_assert_eq!(taken, all.len()),
                        Err(e) if e.kind() == ErrorKind::WouldBlock => prop_assert_eq!(pipe.room.get(), 0),
                        Err(e) => {
                            prop_assert_eq!(e.raw_os_error(), Some(libc::EMSGSIZE));
                            prop_assert!(all[taken].len() > LONGEST_SENT);
                        }
                    }
                }
                Op::Flush => {
                    let done = frames.flush().is_ok();
                    prop_assert!(done || pipe.room.get() == 0);
                    prop_assert!(!done || *pipe.sent.borrow() == expected, "all that was taken is sent");
                }
                Op::Take(len) => pipe.room.set(pipe.room.get() + len),
                Op::Give(len) => {
                    seed += 1;
                    given.push_back(content(seed, len));
                    pipe.waiting.borrow_mut().extend(framed(&content(seed, len)));
                }
                Op::AtOnce(len) => pipe.at_once.set(len),
                Op::Receive => match receive(&mut frames) {
                    Ok(frame) => prop_assert_eq!(Some(frame), given.pop_front()),
                    Err(e) => {
                        prop_assert_eq!(e.kind(), ErrorKind::WouldBlock);
                        prop_assert!(given.is_empty());
                    }
                },
            }
            prop_assert!(expected.starts_with(&pipe.sent.borrow()));
            prop_assert!(frames.tail.len() <= LENGTH + LONGEST_SENT && frames.buffer.len() == BUFFER);
            prop_assert!(!frames.has_ended());
        }
    }
}
