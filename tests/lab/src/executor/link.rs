//! The stream between the two halves of a job, never blocking but where it says so.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use serde::Serialize;

use crate::wire::{Broken, Decoder, Kind, append};

/// One end of the stream.
#[derive(Debug)]
pub(crate) struct Link {
    fd: OwnedFd,
    decoder: Decoder,
    out: Vec<u8>,
    written: usize,
    buffer: Vec<u8>,
}

impl Link {
    /// Takes a socket or a port.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        Ok(Self { fd, decoder: Decoder::default(), out: Vec::new(), written: 0, buffer: vec![0; 64 << 10] })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// How many bytes wait to be written.
    pub(crate) fn backlog(&self) -> usize {
        self.out.len() - self.written
    }

    /// Queues a frame.
    pub(crate) fn send(&mut self, kind: Kind, payload: &[u8]) {
        append(&mut self.out, kind, payload);
    }

    /// Queues a frame of JSON.
    pub(crate) fn send_json(&mut self, kind: Kind, payload: &impl Serialize) {
        append(&mut self.out, kind, &serde_json::to_vec(payload).unwrap_or_default());
    }

    /// Reads what has arrived and writes what can be written; false when the other end is gone.
    pub(crate) fn exchange(&mut self) -> io::Result<bool> {
        self.write_some()?;
        match rustix::io::read(&self.fd, &mut self.buffer) {
            Ok(0) => Ok(false),
            Ok(length) => {
                self.decoder.push(self.buffer.get(..length).unwrap_or_default());
                Ok(true)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(true),
            Err(Errno::CONNRESET) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn write_some(&mut self) -> io::Result<()> {
        while self.backlog() > 0 {
            match rustix::io::write(&self.fd, self.out.get(self.written..).unwrap_or_default()) {
                Ok(length) => self.written += length,
                Err(Errno::AGAIN | Errno::INTR) => break,
                // The reading side notices.
                Err(Errno::PIPE | Errno::CONNRESET) => self.written = self.out.len(),
                Err(error) => return Err(error.into()),
            }
        }
        // Moving the rest to the front only now and then keeps a long backlog cheap.
        if self.written * 2 >= self.out.len() {
            self.out.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }

    /// Gives the next whole frame of those that have arrived.
    pub(crate) fn next(&mut self) -> Result<Option<(Kind, &[u8])>, Broken> {
        self.decoder.next()
    }

    /// Blocks until everything is written, or the other end is gone.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while self.backlog() > 0 {
            self.block(PollFlags::OUT)?;
            self.write_some()?;
        }
        Ok(())
    }

    /// Blocks until something has arrived or the other end is gone.
    pub(crate) fn block_for_input(&self) -> io::Result<()> {
        self.block(PollFlags::IN)
    }

    fn block(&self, flags: PollFlags) -> io::Result<()> {
        match poll(&mut [PollFd::new(&self.fd, flags)], None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
