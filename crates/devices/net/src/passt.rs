//! Networks without privilege, by [passt](https://passt.top): it has the host's network as ordinary connections, and the guest's as
//! frames over a stream socket, each after its length as a 32-bit number, big-endian.
mod config;
mod error;
mod forward;
mod frames;
mod probe;
mod process;
mod redial;

pub use config::PasstConfig;
pub use error::PasstError;
pub use forward::{Forward, ForwardError, Protocol};

use crate::{Backend, Port};
use drystone_memory::{Gather, Scatter};
use drystone_virtio::Source;
use frames::Frames;
use redial::Redial;
use rustix::net::{SocketType, sockopt};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

/// A network by passt: a single port, whose frames are as they are on a wire.
#[derive(Debug)]
pub struct Passt {
    messages: Vec<String>,
}

/// The port of a [`Passt`].
pub struct PasstPort {
    frames: Frames<Arc<OwnedFd>>,
    redial: Option<Redial>,
}

/// A back end, and its port.
type Network = (Arc<Passt>, Vec<Box<dyn Port>>);

/// What the host may keep of frames for a peer that is slow, in bytes: as much as it grants.
const SEND_BUFFER: usize = 4 << 20;

impl Passt {
    /// The largest MTU that passt has, and the one that guests should be given: with larger packets, there are fewer of them.
    pub const MTU: u16 = 65520;

    /// What `config` says: starts passt, or connects to one that runs.
    ///
    /// One that was started ends when the port is dropped, or this process does. It is found out here whether it can do what it
    /// is to do, which takes some tens of milliseconds.
    ///
    /// # Errors
    /// [`PasstError`], which says what to do. Nothing is left behind.
    pub fn start(config: &PasstConfig) -> Result<Network, PasstError> {
        config.validate()?;
        if let Some(path) = &config.socket {
            return Self::connect(path);
        }
        probe::check(&config.forwards)?;
        let started = process::start(config)?;
        let told = match &config.log_file {
            Some(path) => format!("what it had to say is in {}", path.display()),
            None => "what it had to say is in the system's log: `journalctl -t passt` shows it".into(),
        };
        let frames = Self::frames(started.socket, format!("passt has ended; {told}"));
        Ok(Self::on(frames, None, started.messages))
    }

    /// A passt that runs, at the path of its socket (`passt --socket PATH`). If it goes, the guest's cable is out until there is one again.
    ///
    /// # Errors
    /// [`PasstError`].
    pub fn connect(path: &Path) -> Result<Network, PasstError> {
        let failed = |cause| PasstError::Connect { path: path.into(), cause };
        let redial = Redial::new(path).map_err(failed)?;
        let frames = redial.dial().map_err(failed)?;
        Ok(Self::on(frames, Some(redial), Vec::new()))
    }

    /// A passt, or whatever speaks as it does (QEMU's `-netdev stream` does), at the other end of a connected stream socket.
    ///
    /// # Errors
    /// [`PasstError::NotAStream`].
    pub fn from_stream(socket: OwnedFd) -> Result<Network, PasstError> {
        let kind = sockopt::socket_type(&socket).map_err(|e| PasstError::NotAStream(e.into()))?;
        if kind != SocketType::STREAM {
            return Err(PasstError::NotAStream(io::ErrorKind::InvalidInput.into()));
        }
        // One that was never connected says so now, not with the guest's first frame.
        rustix::net::getpeername(&socket).map_err(|e| PasstError::NotAStream(e.into()))?;
        let frames = Self::frames(socket, "the other end of the network's socket has gone".into());
        Ok(Self::on(frames, None, Vec::new()))
    }

    fn frames(socket: OwnedFd, farewell: String) -> Frames<Arc<OwnedFd>> {
        // What is granted will do.
        let _ = sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER);
        Frames::new(Arc::new(socket), farewell)
    }

    fn on(frames: Frames<Arc<OwnedFd>>, redial: Option<Redial>, messages: Vec<String>) -> Network {
        (Arc::new(Self { messages }), vec![Box::new(PasstPort { frames, redial })])
    }

    /// What passt said when it was started: warnings, such as that it knows of no DNS server.
    pub fn messages(&self) -> &[String] {
        &self.messages
    }
}

impl Backend for Passt {}

impl Port for PasstPort {
    fn send(&mut self, frames: &[Gather<'_>]) -> (usize, io::Result<()>) {
        self.frames.send(frames)
    }

    fn receive(&mut self, room: &mut Scatter<'_>) -> io::Result<usize> {
        self.frames.receive(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.frames.flush()
    }

    fn source(&self, token: u32) -> Option<Source> {
        let stream = || Source { fd: self.frames.stream().clone(), token, readable: true, writable: true };
        Some(self.redial.as_ref().map_or_else(stream, |redial| redial.source(token)))
    }

    fn is_gone(&self, _: &io::Error) -> bool {
        let gone = self.frames.has_ended();
        if let Some(redial) = self.redial.as_ref().filter(|_| gone) {
            redial.later();
        }
        gone
    }

    fn is_back(&mut self) -> bool {
        if let Some(redial) = self.redial.as_ref().filter(|_| self.frames.has_ended()) {
            match redial.dial() {
                Ok(frames) => self.frames = frames,
                Err(_) => redial.later(),
            }
        }
        !self.frames.has_ended()
    }
}
