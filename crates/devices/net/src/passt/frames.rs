//! Frames on a stream, each after its length.
use crate::{FRAME_HEADER, MAX_FRAME};
use drystone_memory::{Gather, MAX_PIECES, Scatter};
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Bytes of a length.
const LENGTH: usize = 4;
/// The longest frame that passt takes (ETH_MAX_MTU of Linux).
const LONGEST_SENT: usize = 65535;
/// What is read at once.
const BUFFER: usize = 256 << 10;

/// What a [`Frames`] is on. Nothing waits.
pub(super) trait Stream {
    /// As many bytes as it takes.
    fn write(&self, bytes: &Gather<'_>) -> io::Result<usize>;
    /// As many bytes as there are; 0 at the end.
    fn read(&self, into: &mut [u8]) -> io::Result<usize>;
    /// The peer is to know that nothing more comes or goes.
    fn close(&self);
}

impl Stream for Arc<OwnedFd> {
    fn write(&self, bytes: &Gather<'_>) -> io::Result<usize> {
        bytes.send_to(self.as_fd())
    }
    fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        let (len, _) = rustix::io::retry_on_intr(|| recv(self, &mut *into, RecvFlags::DONTWAIT))?;
        Ok(len)
    }
    fn close(&self) {
        // One that is closed already will not mind.
        let _ = shutdown(self, Shutdown::Both);
    }
}

/// A peer that takes and gives frames on a stream.
pub(super) struct Frames<S: Stream> {
    stream: S,
    /// What is left of a frame that was sent in part, and how much of it was sent meanwhile. Nothing else goes before it.
    tail: Vec<u8>,
    tail_sent: usize,
    /// What was read, from `taken` to `filled`.
    buffer: Box<[u8]>,
    taken: usize,
    filled: usize,
    /// What to say when the peer leaves.
    farewell: String,
    /// Why nothing comes or goes any more.
    end: Option<String>,
    lengths: Vec<[u8; LENGTH]>,
    spare: Gather<'static>,
}

/// What is at the front of what was read.
enum Next {
    /// A frame of this many bytes.
    Frame(usize),
    /// Less than a frame.
    Part,
    /// The length of none.
    Nonsense(u32),
}

impl<S: Stream> Frames<S> {
    pub fn new(stream: S, farewell: String) -> Self {
        Self {
            stream,
            tail: Vec::new(),
            tail_sent: 0,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            taken: 0,
            filled: 0,
            farewell,
            end: None,
            lengths: Vec::new(),
            spare: Gather::default(),
        }
    }

    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Nothing will ever come or go.
    pub fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Sends frames, without the headers that they have here, and says how many the peer has, or will have before any other.
    pub fn send(&mut self, frames: &[Gather<'_>]) -> (usize, io::Result<()>) {
        let mut taken = 0;
        while let Some(rest) = frames.get(taken..).filter(|rest| !rest.is_empty()) {
            match self.flush().and_then(|()| self.send_some(rest)) {
                Ok(more) => taken += more,
                Err(e) => return (taken, Err(e)),
            }
        }
        (taken, Ok(()))
    }

    /// Sends what is left of a frame.
    pub fn flush(&mut self) -> io::Result<()> {
        self.check()?;
        while let Some(rest) = self.tail.get(self.tail_sent..).filter(|rest| !rest.is_empty()) {
            let mut bytes = Gather::default();
            bytes.push_host(rest);
            match self.stream.write(&bytes) {
                Ok(0) => return Err(ErrorKind::WouldBlock.into()),
                Ok(sent) => self.tail_sent += sent,
                Err(e) => return Err(self.failed(e)),
            }
        }
        self.tail.clear();
        self.tail_sent = 0;
        Ok(())
    }

    /// Sends as many frames as one call takes, at least one. The last may be sent in part: the rest of it is kept.
    fn send_some(&mut self, frames: &[Gather<'_>]) -> io::Result<usize> {
        let length = |frame: &Gather<'_>| frame.bytes().saturating_sub(FRAME_HEADER);
        let fits = |frame: &&Gather<'_>| length(frame) <= LONGEST_SENT;
        let mut pieces = 0;
        let together = frames.iter().take_while(fits).take_while(|frame| {
            let first = pieces == 0;
            pieces += 1 + frame.pieces();
            // One that has more is sent in parts.
            first || pieces <= MAX_PIECES
        });
        let mut lengths = std::mem::take(&mut self.lengths);
        lengths.clear();
        lengths.extend(together.map(|frame| (length(frame) as u32).to_be_bytes()));
        if lengths.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        let mut all = std::mem::take(&mut self.spare).recycle();
        for (length, frame) in lengths.iter().zip(frames) {
            all.push_host(length);
            all.push_rest(frame, FRAME_HEADER);
        }
        let sent = self.stream.write(&all);
        let taken = match sent {
            Ok(0) => Err(ErrorKind::WouldBlock.into()),
            Ok(sent) => Ok(self.keep_rest(sent, &lengths, &all)),
            Err(e) => Err(self.failed(e)),
        };
        self.spare = all.recycle();
        self.lengths = lengths;
        taken
    }

    /// Keeps what the peer has not taken of a frame that it has taken a part of. Gives how many it has begun with.
    fn keep_rest(&mut self, sent: usize, lengths: &[[u8; LENGTH]], all: &Gather<'_>) -> usize {
        let mut end = 0;
        for (n, length) in lengths.iter().enumerate() {
            if sent == end {
                return n;
            }
            end += LENGTH + u32::from_be_bytes(*length) as usize;
            if sent < end {
                self.tail.resize(end - sent, 0);
                all.copy_to(sent, &mut self.tail);
                return n + 1;
            }
        }
        lengths.len()
    }

    /// Gives the next frame to `room`, behind a header of zeros.
    pub fn receive(&mut self, room: &mut Scatter<'_>) -> io::Result<usize> {
        loop {
            match self.next() {
                Next::Frame(len) => {
                    let from = self.taken + LENGTH;
                    self.taken = from + len;
                    room.copy_from(0, &[0; FRAME_HEADER]);
                    room.copy_from(FRAME_HEADER, self.buffer.get(from..self.taken).unwrap_or_default());
                    return Ok(FRAME_HEADER + len);
                }
                Next::Part => self.read()?,
                Next::Nonsense(len) => {
                    let why = format!(
                        "the network's other end sent a frame of {len} bytes, which there is none of: it is not passt, or broken"
                    );
                    return Err(self.finish(why));
                }
            }
        }
    }

    fn next(&self) -> Next {
        let waiting = self.buffer.get(self.taken..self.filled).unwrap_or_default();
        let Some((length, rest)) = waiting.split_first_chunk() else { return Next::Part };
        let length = u32::from_be_bytes(*length);
        match usize::try_from(length) {
            Ok(len @ 1..=MAX_FRAME) if len <= rest.len() => Next::Frame(len),
            Ok(1..=MAX_FRAME) => Next::Part,
            _ => Next::Nonsense(length),
        }
    }

    /// Reads more, behind the part of a frame that there is.
    fn read(&mut self) -> io::Result<()> {
        self.check()?;
        self.buffer.copy_within(self.taken..self.filled, 0);
        self.filled -= self.taken;
        self.taken = 0;
        match self.stream.read(self.buffer.get_mut(self.filled..).unwrap_or_default()) {
            Ok(0) => Err(self.leave()),
            Ok(len) => {
                self.filled += len;
                Ok(())
            }
            Err(e) => Err(self.failed(e)),
        }
    }

    fn check(&self) -> io::Result<()> {
        self.end.as_ref().map_or(Ok(()), |why| Err(io::Error::new(ErrorKind::BrokenPipe, why.clone())))
    }

    /// The host has refused something: has the peer gone?
    fn failed(&mut self, error: io::Error) -> io::Error {
        match error.kind() {
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::NotConnected => self.leave(),
            _ => error,
        }
    }

    fn leave(&mut self) -> io::Error {
        self.finish(self.farewell.clone())
    }

    fn finish(&mut self, why: String) -> io::Error {
        self.stream.close();
        (self.taken, self.filled) = (0, 0);
        self.tail = Vec::new();
        self.tail_sent = 0;
        self.end = Some(why.clone());
        io::Error::new(ErrorKind::BrokenPipe, why)
    }
}

impl<S: Stream> Drop for Frames<S> {
    /// An event loop may have the descriptor a little longer.
    fn drop(&mut self) {
        self.stream.close();
    }
}

#[cfg(test)]
mod tests;
