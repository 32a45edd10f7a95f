use drystone_virtio::Doorbell;
use std::io;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// One eventfd for each queue of a device. The hypervisor writes it when the driver notifies the queue (KVM's ioeventfd),
/// the core when it wants the queue looked at, and a [`Runner`](crate::Runner) listens.
#[derive(Debug)]
pub struct Doorbells(Vec<EventFd>);

impl Doorbells {
    /// Doorbells for queues 0 to `queues - 1`.
    ///
    /// # Errors
    /// What the host said when it gave no eventfd.
    pub fn new(queues: usize) -> io::Result<Self> {
        (0..queues).map(|_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)).collect::<Result<_, _>>().map(Self)
    }

    /// The eventfd of a queue, to be given to a hypervisor.
    pub fn event(&self, queue: u16) -> Option<&EventFd> {
        self.0.get(usize::from(queue))
    }
}

impl Doorbell for Doorbells {
    fn ring(&self, queue: u16) {
        if let Some(event) = self.event(queue) {
            // A full counter (only a non-blocking one refuses) already says what this write would.
            let _ = event.write(1);
        }
    }
}
