//! What the host and the machine that runs a job say to each other.
//!
//! A frame is its kind (one byte), the length of its payload (four bytes, little endian) and the payload.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The longest payload; a longer one means that the stream is broken.
pub(crate) const LARGEST: usize = 256 << 10;
const HEADER: usize = 5;

/// What a frame is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// To the machine: a [`Request`], the first frame.
    Run = 1,
    /// To the machine: bytes for the command's standard input.
    Stdin = 2,
    /// To the machine: standard input has ended.
    StdinEnd = 3,
    /// To the machine: a [`Size`], the terminal's new one.
    Resize = 4,
    /// From the machine: it waits for a request.
    Ready = 16,
    /// From the machine: bytes of the command's output, or of its terminal.
    Stdout = 17,
    /// From the machine: bytes of the command's error output.
    Stderr = 18,
    /// From the machine: an [`Item`] of the files to bring back.
    Item = 19,
    /// From the machine: bytes of the file that the last [`Item`] began.
    Data = 20,
    /// From the machine: an [`End`], the last frame.
    End = 21,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Run,
        Self::Stdin,
        Self::StdinEnd,
        Self::Resize,
        Self::Ready,
        Self::Stdout,
        Self::Stderr,
        Self::Item,
        Self::Data,
        Self::End,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// A job, as the machine needs to know it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Request {
    pub command: Vec<String>,
    pub environment: BTreeMap<String, String>,
    /// The size of the terminal to run in, if any.
    pub terminal: Option<Size>,
    /// Whether there will be standard input; else it is empty.
    pub stdin: bool,
    /// Seconds until everything in the job is killed.
    pub limit: Option<f64>,
    /// Names of the files and directories to bring back, relative to the job's directory.
    pub outputs: Vec<String>,
    /// The time of day, seconds and nanoseconds: a machine that was asleep in a snapshot does not know it.
    pub clock: Option<(i64, i64)>,
    /// Fresh randomness, for the same reason.
    pub seed: Vec<u8>,
}

/// A piece of what is brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Item {
    /// Its place in [`Request::outputs`].
    pub output: usize,
    /// Its path below that; empty for the named file or directory itself.
    pub path: String,
    pub kind: ItemKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ItemKind {
    /// A file with these permission bits; its bytes follow in data frames.
    File(u32),
    Directory(u32),
    Symlink(String),
    /// It is not there, or cannot be read; and why.
    Missing(String),
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum End {
    /// By an exit code.
    Exited(i32),
    /// By a signal.
    Signalled(i32),
    /// By its time limit.
    TimedOut,
    /// The command could not be started: the exit code for that, as a shell gives it, and the cause.
    NotStarted(i32, String),
    /// The machine itself could not do its part.
    Failed(String),
}

/// Appends a frame, or several when the payload is longer than one takes.
pub(crate) fn append(bytes: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
    let mut rest = payload;
    loop {
        let (part, after) = rest.split_at(rest.len().min(LARGEST));
        bytes.push(kind as u8);
        bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(0).to_le_bytes());
        bytes.extend_from_slice(part);
        rest = after;
        if rest.is_empty() {
            return;
        }
    }
}

/// A stream that does not follow the format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("broken stream: {0}")]
pub(crate) struct Broken(String);

/// Cuts a stream of bytes into frames.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    bytes: Vec<u8>,
    taken: usize,
}

impl Decoder {
    /// Takes what has arrived.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken.min(self.bytes.len()));
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Gives the next whole frame.
    pub(crate) fn next(&mut self) -> Result<Option<(Kind, &[u8])>, Broken> {
        let rest = self.bytes.get(self.taken..).unwrap_or_default();
        let Some(([kind, length @ ..], after)) = rest.split_first_chunk::<HEADER>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > LARGEST {
            return Err(Broken(format!("a frame of {length} bytes")));
        }
        let Some(payload) = after.get(..length) else { return Ok(None) };
        self.taken += HEADER + length;
        let kind = Kind::from_byte(*kind).ok_or_else(|| Broken(format!("a frame of kind {kind}")))?;
        Ok(Some((kind, payload)))
    }
}

/// Reads a JSON payload.
pub(crate) fn parse<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, Broken> {
    serde_json::from_slice(payload).map_err(|error| Broken(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        append(&mut bytes, kind, payload);
        bytes
    }

    #[test]
    fn frames_survive_being_cut_anywhere() {
        let mut stream = frame(Kind::Stdout, b"hello");
        stream.extend(frame(Kind::StdinEnd, b""));
        stream.extend(frame(Kind::End, &serde_json::to_vec(&End::Signalled(9)).unwrap()));
        for cut in 0..stream.len() {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                decoder.push(part);
                while let Some((kind, payload)) = decoder.next().unwrap() {
                    seen.push((kind, payload.to_vec()));
                }
            }
            assert_eq!(seen.len(), 3);
            assert_eq!(seen[0], (Kind::Stdout, b"hello".to_vec()));
            assert_eq!(parse::<End>(&seen[2].1).unwrap(), End::Signalled(9));
        }
    }

    #[test]
    fn a_long_payload_becomes_several_frames() {
        let data = vec![7; LARGEST + 10];
        let mut decoder = Decoder::default();
        decoder.push(&frame(Kind::Data, &data));
        assert_eq!(decoder.next().unwrap().unwrap().1.len(), LARGEST);
        assert_eq!(decoder.next().unwrap().unwrap().1.len(), 10);
        assert!(decoder.next().unwrap().is_none());
    }

    #[test]
    fn broken_streams_are_refused() {
        let mut decoder = Decoder::default();
        decoder.push(&[17, 0, 0, 0, 0x10]);
        assert!(decoder.next().is_err());
        let mut decoder = Decoder::default();
        decoder.push(&[99, 0, 0, 0, 0]);
        assert!(decoder.next().is_err());
        assert!(parse::<End>(b"{").is_err());
    }
}
