use super::{Frames, Passt};
use drystone_virtio::{Source, Timer};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// Connects to a socket, and again when whoever answered there is gone.
pub(super) struct Redial {
    path: PathBuf,
    /// A port is asked once what to watch, so that is something which lasts longer than a connection: it is readable when the
    /// connection or the timer has something to say.
    watch: Arc<Epoll>,
    timer: Timer,
}

impl Redial {
    pub fn new(path: &Path) -> io::Result<Self> {
        let (watch, timer) = (Arc::new(Epoll::new()?), Timer::new()?);
        let redial = Self { path: path.into(), watch, timer };
        redial.watch_for(redial.timer.source(0).fd.as_raw_fd(), EventSet::IN)?;
        Ok(redial)
    }

    /// Until it is closed.
    fn watch_for(&self, fd: RawFd, events: EventSet) -> io::Result<()> {
        let event = EpollEvent::new(events | EventSet::EDGE_TRIGGERED, 0);
        self.watch.ctl(ControlOperation::Add, fd, event)
    }

    /// Connects, without waiting.
    pub fn dial(&self) -> io::Result<Frames<Arc<OwnedFd>>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(&self.path)?)?;
        self.watch_for(socket.as_raw_fd(), EventSet::IN | EventSet::OUT)?;
        Ok(Passt::frames(socket, format!("the passt at {} has gone", self.path.display())))
    }

    /// The next attempt is in a while.
    pub fn later(&self) {
        self.timer.set(PAUSE);
    }

    pub fn source(&self, token: u32) -> Source {
        Source { fd: self.watch.clone(), token, readable: true, writable: false }
    }
}
