//! A cable within the process: for tests, and for a VMM that is the network itself.
use crate::{Backend, FRAME_HEADER, MAX_FRAME, Offloads, Port};
use drystone_memory::{Gather, Scatter};
use drystone_virtio::Source;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Frames that wait in one direction of one port at most.
const ROOM: usize = 1024;

/// A cable for a device with `pairs` pairs of queues that can do `offloads`: the device's half, its ports, and the other end.
///
/// # Errors
/// What the host said when it gave no eventfd.
#[allow(clippy::type_complexity)]
pub fn wire(pairs: u16, offloads: Offloads) -> io::Result<(Arc<Wire>, Vec<Box<dyn Port>>, WireEnd)> {
    let strand = |_| -> io::Result<Arc<Strand>> {
        let event = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
        Ok(Arc::new(Strand { event, frames: Mutex::default(), cut: AtomicBool::new(false) }))
    };
    let strands = (0..pairs).map(strand).collect::<io::Result<Vec<_>>>()?;
    let wire = Arc::new(Wire { offloads, guest: Mutex::new(Offloads::NONE), pairs: AtomicU16::new(1) });
    let port = |strand: &Arc<Strand>| Box::new(WirePort(strand.clone())) as Box<dyn Port>;
    let ports = strands.iter().map(port).collect();
    Ok((wire.clone(), ports, WireEnd { wire, strands }))
}

/// The device's half of a cable.
pub struct Wire {
    offloads: Offloads,
    guest: Mutex<Offloads>,
    pairs: AtomicU16,
}

struct Strand {
    /// Rings when there is something to do for the device.
    event: Arc<EventFd>,
    frames: Mutex<Frames>,
    cut: AtomicBool,
}

#[derive(Default)]
struct Frames {
    to_guest: VecDeque<Vec<u8>>,
    from_guest: VecDeque<Vec<u8>>,
}

/// A port on a cable.
pub struct WirePort(Arc<Strand>);

/// The end of a cable that the caller has. Frames are whole, with their header of [`FRAME_HEADER`] bytes. Clones are the same.
#[derive(Clone)]
pub struct WireEnd {
    wire: Arc<Wire>,
    strands: Vec<Arc<Strand>>,
}

impl Strand {
    fn frames(&self) -> MutexGuard<'_, Frames> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        // A full counter says the same.
        let _ = self.event.write(1);
    }

    fn check(&self) -> io::Result<()> {
        if self.cut.load(Ordering::Acquire) { Err(ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

impl WireEnd {
    /// Sends a frame to the guest by `port`. False if there is no such port, or it is full: the frame is lost.
    pub fn send(&self, port: u16, frame: &[u8]) -> bool {
        let Some(strand) = self.strands.get(usize::from(port)) else { return false };
        let mut frames = strand.frames();
        let room = frames.to_guest.len() < ROOM;
        if room {
            frames.to_guest.push_back(frame.to_vec());
            drop(frames);
            strand.ring();
        }
        room
    }

    /// The next frame that the guest has sent by `port`.
    pub fn receive(&self, port: u16) -> Option<Vec<u8>> {
        let strand = self.strands.get(usize::from(port))?;
        let mut frames = strand.frames();
        let was_full = frames.from_guest.len() >= ROOM;
        let frame = frames.from_guest.pop_front();
        drop(frames);
        if was_full {
            strand.ring();
        }
        frame
    }

    /// What may be left to do in frames for the guest, as it has said.
    pub fn offloads(&self) -> Offloads {
        *self.wire.guest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Through how many ports the guest receives.
    pub fn pairs(&self) -> u16 {
        self.wire.pairs.load(Ordering::Acquire)
    }

    /// Cuts the cable, for good.
    pub fn cut(&self) {
        for strand in &self.strands {
            strand.cut.store(true, Ordering::Release);
            strand.ring();
        }
    }
}

impl Backend for Wire {
    fn offloads(&self) -> Offloads {
        self.offloads
    }
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        *self.guest.lock().unwrap_or_else(PoisonError::into_inner) = offloads;
        Ok(())
    }
    fn set_pairs(&self, pairs: u16) -> io::Result<()> {
        self.pairs.store(pairs, Ordering::Release);
        Ok(())
    }
}

impl Port for WirePort {
    fn send(&mut self, frames: &[Gather<'_>]) -> (usize, io::Result<()>) {
        if let Err(e) = self.0.check() {
            return (0, Err(e));
        }
        let queue = &mut self.0.frames().from_guest;
        for (taken, frame) in frames.iter().enumerate() {
            if queue.len() >= ROOM {
                return (taken, Err(ErrorKind::WouldBlock.into()));
            }
            let mut bytes = vec![0; frame.bytes().min(FRAME_HEADER + MAX_FRAME)];
            frame.copy_to(0, &mut bytes);
            queue.push_back(bytes);
        }
        (frames.len(), Ok(()))
    }

    fn receive(&mut self, room: &mut Scatter<'_>) -> io::Result<usize> {
        self.0.check()?;
        // Before it is looked at, so that a frame that comes meanwhile rings again.
        let _ = self.0.event.read();
        let frame = self.0.frames().to_guest.pop_front().ok_or(ErrorKind::WouldBlock)?;
        Ok(room.copy_from(0, &frame))
    }

    fn source(&self, token: u32) -> Option<Source> {
        Some(Source { fd: self.0.event.clone(), token, readable: true, writable: false })
    }

    fn is_gone(&self, error: &io::Error) -> bool {
        error.kind() == ErrorKind::BrokenPipe
    }
}
