use crate::{Cx, Fault};
use drystone_memory::Mem;
use drystone_state::PersistDyn;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// What the guest is told about a device. Fixed when it is built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// The device type (5).
    pub device_type: u32,
    /// The device's own feature bits (2.2): 0 to 23 and 50 to 63. Those of rings and negotiation are the core's.
    pub features: u64,
    /// The largest size of each queue, in entries: powers of two up to 32768.
    pub queue_sizes: Vec<u16>,
    /// Length of the configuration space in bytes (2.5).
    pub config_len: u32,
    /// Memory that the device shares with the driver (2.10). The transport places it.
    pub shared_memory: Vec<SharedMemory>,
}

/// A shared memory region of a device (2.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedMemory {
    /// Its id; what it means is the device type's to say.
    pub id: u8,
    /// Its length in bytes.
    pub len: u64,
}

/// A file descriptor that a worker wants to hear about. Registered once, edge-triggered, for the worker's life; the
/// `Arc` keeps the number from being reused. A worker whose descriptors change brings one epoll descriptor.
#[derive(Clone)]
pub struct Source {
    /// The descriptor.
    pub fd: Arc<dyn AsRawFd + Send + Sync>,
    /// What [`Worker::on_ready`] is given.
    pub token: u32,
    /// Tell when it may be read.
    pub readable: bool,
    /// Tell when it may be written.
    pub writable: bool,
}

/// Serves one or more queues, alone: called from any thread, never from two at once. It takes no lock of its own.
///
/// What it owes the core:
/// - **Readiness is a hint.** [`on_kick`](Self::on_kick) and [`on_ready`](Self::on_ready) may come for nothing. Serve
///   until [`pop`](crate::RingRef::pop) gives `None`, or stop early only if a later `on_ready` is sure to continue.
///   After [`start`](Self::start), assume that everything is ready.
/// - **A popped [`Chain`](crate::Chain) is completed, put back, or still held; never lost.** What does I/O into guest
///   memory owns the chain, so "no chain is alive" means "no I/O is in flight". The core counts.
/// - **It does not block** without bound, in no call. The core waits for what is in flight, and runs out of patience.
/// - **When nothing is in flight, it has no state**: what must survive a pause lives in the rings or in the device.
///
/// A panic stops the lane as a [`Fault`] does.
pub trait Worker<M: Mem>: Send {
    /// The driver is ready, a paused or restored machine resumes, or a queue came or went. Features and rings are in
    /// `cx`.
    ///
    /// # Errors
    /// A [`Fault`] stops the lane, here and in the other calls.
    fn start(&mut self, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        let _ = cx;
        Ok(())
    }

    /// The driver may have made buffers available on `queue`.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    fn on_kick(&mut self, queue: u16, cx: &mut Cx<'_, M>) -> Result<(), Fault>;

    /// The source with this token may be ready.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    fn on_ready(&mut self, token: u32, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        let _ = (token, cx);
        Ok(())
    }

    /// A pause: complete (or put back) what has ended. `pop` gives `None` now. Called again, whenever a source may be
    /// ready, until nothing is in flight: no waiting here.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    fn drain(&mut self, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        let _ = cx;
        Ok(())
    }

    /// A reset: ask the back end to give up what is in flight, and drop every chain that nothing does I/O on any more.
    /// Called again, as [`drain`](Self::drain) is, until all are dropped. Guest memory is then not touched any more.
    fn cancel(&mut self) {}

    /// The rings run elsewhere (vhost): event loops leave this lane's doorbells alone. Asked once.
    fn offloaded(&self) -> bool {
        false
    }

    /// Descriptors to watch. Asked once.
    fn sources(&self) -> Vec<Source> {
        Vec::new()
    }
}

/// A virtio device. It is itself the worker of every queue that it has not handed out, so a simple device is one
/// struct.
pub trait VirtioDevice<M: Mem>: Worker<M> {
    /// What the guest is told. It never changes.
    fn describe(&self) -> Description;

    /// May the driver use the device with just these features? All of them were offered. The driver is refused
    /// FEATURES_OK otherwise (3.1.1, step 5).
    fn accept(&self, features: u64) -> bool {
        let _ = features;
        true
    }

    /// Reads the configuration space (2.5), in which `offset..offset + out.len()` lies. `out` arrives zeroed.
    ///
    /// What it reads changes only inside a call to the device itself (a message is taken in `on_ready`), which then
    /// calls [`Cx::config_changed`]: so a driver that looks at the generation never puts halves together.
    fn config_read(&self, offset: u64, out: &mut [u8]) {
        let _ = (offset, out);
    }

    /// Writes the configuration space, in which `offset..offset + data.len()` lies.
    fn config_write(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// Hands out workers with the queues that each owns, for a device with several queues. Called once, before
    /// anything else runs. What they share goes through the author's own `Arc`s, and nothing through the core.
    fn split(&mut self) -> Vec<(Vec<u16>, Box<dyn Worker<M>>)> {
        Vec::new()
    }

    /// Forgets what the driver has set, back to what the constructor gave. Every worker was cancelled before.
    fn reset(&mut self);

    /// How the device's own state is saved, next to the core's; `None` if it cannot be. Which of the two must not
    /// change over the device's life.
    fn persist(&self) -> Option<&dyn PersistDyn>;
}
