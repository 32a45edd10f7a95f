//! Interfaces of the host: tap devices (Documentation/networking/tuntap.rst of the Linux kernel).
mod error;
mod ioctl;

pub use error::TapError;

use crate::{Backend, FRAME_HEADER, Offloads, Port};
use drystone_memory::{Gather, Scatter};
use drystone_virtio::Source;
use ioctl::Interface;
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

const TUN: &str = "/dev/net/tun";
/// Longest name of an interface.
const MAX_NAME: usize = libc::IFNAMSIZ - 1;

/// A tap interface of the host, with a queue for each pair of the device's.
#[derive(Debug)]
pub struct Tap {
    name: String,
    queues: Vec<Arc<OwnedFd>>,
    offloads: Offloads,
    /// How many of the queues are attached.
    attached: Mutex<u16>,
}

/// A queue of a [`Tap`].
pub struct TapPort {
    queue: Arc<OwnedFd>,
    name: String,
}

impl Tap {
    /// The interface `name`, which somebody has made (`ip tuntap add NAME mode tap`), for a device with `pairs` pairs of queues.
    /// More than one needs one that was made with `multi_queue`.
    ///
    /// # Errors
    /// [`TapError`], which says what to do.
    pub fn open(name: &str, pairs: u16) -> Result<Arc<Self>, TapError> {
        if !ioctl::exists(name) {
            return Err(TapError::NoInterface { name: name.into(), pairs });
        }
        Self::attach(name, pairs)
    }

    /// Makes an interface, which is gone when nothing holds it any more. A `%d` in `name` becomes the first number that is free. It is
    /// put up, joined to `bridge` and set to `mtu` if those are given.
    ///
    /// # Errors
    /// [`TapError`]; nothing is left behind.
    pub fn create(
        name: &str,
        pairs: u16,
        bridge: Option<&str>,
        mtu: Option<u16>,
    ) -> Result<Arc<Self>, TapError> {
        if ioctl::exists(name) {
            return Err(TapError::Exists(name.into()));
        }
        let tap = Self::attach(name, pairs)?;
        let failed = |attempt| {
            let name = tap.name.clone();
            move |cause| TapError::Host { name, attempt, cause }
        };
        let interface = Interface::new(&tap.name).map_err(failed("reach it"))?;
        if let Some(mtu) = mtu {
            interface.set_mtu(mtu).map_err(failed("set its MTU"))?;
        }
        if let Some(bridge) = bridge {
            interface.join(bridge).map_err(|cause| TapError::Bridge {
                name: tap.name.clone(),
                bridge: bridge.into(),
                cause,
            })?;
        }
        interface.set_up().map_err(failed("bring it up"))?;
        Ok(tap)
    }

    /// An interface whose queues somebody has opened, one for each pair: `/dev/net/tun`, with `TUNSETIFF` done for `IFF_TAP`,
    /// `IFF_NO_PI` and `IFF_VNET_HDR`.
    ///
    /// # Errors
    /// [`TapError`].
    pub fn from_queues(queues: Vec<OwnedFd>) -> Result<Arc<Self>, TapError> {
        let mut name = None;
        for queue in &queues {
            let (its, flags) = ioctl::interface_of(queue.as_fd()).map_err(TapError::NotATap)?;
            if let Some(lack) = ioctl::lacks(flags, queues.len()) {
                return Err(TapError::Flags { name: its, lack });
            }
            if *name.get_or_insert_with(|| its.clone()) != its {
                return Err(TapError::Several);
            }
            let host = |cause| TapError::Host { name: its.clone(), attempt: "read without waiting", cause };
            let flags = fcntl_getfl(queue).map_err(|e| host(e.into()))?;
            fcntl_setfl(queue, flags | OFlags::NONBLOCK).map_err(|e| host(e.into()))?;
        }
        Self::on(name.ok_or(TapError::Several)?, queues)
    }

    /// As [`from_queues`](Self::from_queues), of descriptors that this process was started with, by their numbers. They stay open, and go
    /// to no other program.
    ///
    /// # Errors
    /// [`TapError`].
    pub fn inherit(numbers: &[i32]) -> Result<Arc<Self>, TapError> {
        let queues = numbers.iter().map(|number| ioctl::inherit(*number)).collect::<io::Result<_>>();
        Self::from_queues(queues.map_err(TapError::NotATap)?)
    }

    fn attach(name: &str, pairs: u16) -> Result<Arc<Self>, TapError> {
        if name.is_empty()
            || name.len() > MAX_NAME
            || name.contains(['/', '\0'])
            || name.contains(char::is_whitespace)
        {
            return Err(TapError::Name(name.into()));
        }
        let (mut name, mut queues) = (name.to_owned(), Vec::new());
        for _ in 0..pairs {
            let queue = open(TUN, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty());
            let queue = queue.map_err(|e| TapError::Tun(e.into()))?;
            let attached = ioctl::attach(queue.as_fd(), &name, pairs > 1);
            name = attached.map_err(|cause| TapError::Attach { name: name.clone(), pairs, cause })?;
            queues.push(queue);
        }
        Self::on(name, queues)
    }

    fn on(name: String, queues: Vec<OwnedFd>) -> Result<Arc<Self>, TapError> {
        let host = |attempt| {
            let name = name.clone();
            move |cause| TapError::Host { name, attempt, cause }
        };
        let mut offloads = Offloads::NONE;
        for queue in &queues {
            ioctl::set_header(queue.as_fd(), FRAME_HEADER).map_err(host("set the size of its headers"))?;
            offloads = ioctl::offloads(queue.as_fd()).map_err(host("turn offloads off"))?;
        }
        let attached = Mutex::new(queues.len().try_into().unwrap_or(u16::MAX));
        let queues = queues.into_iter().map(Arc::new).collect();
        Ok(Arc::new(Self { name, queues, offloads, attached }))
    }

    /// The interface's name on the host.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A port for each pair of queues. To be asked for once.
    pub fn ports(&self) -> Vec<Box<dyn Port>> {
        let port = |queue: &Arc<OwnedFd>| -> Box<dyn Port> {
            Box::new(TapPort { queue: queue.clone(), name: self.name.clone() })
        };
        self.queues.iter().map(port).collect()
    }
}

impl Backend for Tap {
    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        // They are the interface's, whichever queue they are set by.
        self.queues.first().map_or(Ok(()), |queue| ioctl::set_offloads(queue.as_fd(), offloads))
    }

    fn set_pairs(&self, pairs: u16) -> io::Result<()> {
        if self.queues.len() < 2 {
            return Ok(());
        }
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        while *attached != pairs {
            let more = *attached < pairs;
            let which = if more { *attached } else { attached.saturating_sub(1) };
            let Some(queue) = self.queues.get(usize::from(which)) else { break };
            ioctl::set_attached(queue.as_fd(), more)?;
            *attached = if more { attached.saturating_add(1) } else { which };
        }
        Ok(())
    }
}

impl TapPort {
    /// Says what to do about what a guest's operator can mend.
    fn explain(&self, error: io::Error) -> io::Error {
        let name = &self.name;
        match error.raw_os_error() {
            Some(libc::EIO) => {
                io::Error::other(format!("interface {name} is down: `ip link set {name} up` brings it up"))
            }
            _ => error,
        }
    }
}

impl Port for TapPort {
    fn send(&mut self, frames: &[Gather<'_>]) -> (usize, io::Result<()>) {
        for (taken, frame) in frames.iter().enumerate() {
            if let Err(e) = frame.write_to(self.queue.as_fd()) {
                return (taken, Err(self.explain(e)));
            }
        }
        (frames.len(), Ok(()))
    }

    fn receive(&mut self, room: &mut Scatter<'_>) -> io::Result<usize> {
        room.read_from(self.queue.as_fd())
    }

    fn source(&self, token: u32) -> Option<Source> {
        Some(Source { fd: self.queue.clone(), token, readable: true, writable: true })
    }

    /// Somebody has deleted the interface.
    fn is_gone(&self, error: &io::Error) -> bool {
        error.raw_os_error() == Some(libc::EBADFD)
    }
}
