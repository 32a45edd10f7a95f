/// Raises a device's interrupts. Made by a transport, which knows whether a queue has a vector of its own.
///
/// Called under a lane's lock: it must not block, and must not call the core.
pub trait Interrupts: Send + Sync {
    /// Buffers of queue `index` were used (2.3, used buffer notification).
    fn queue(&self, index: u16);
    /// The configuration space or the status changed (2.3, configuration change notification).
    fn config(&self);
}

/// Asks whoever runs a queue's lane to call [`VirtioCore::kick`](crate::VirtioCore::kick) for it soon: an eventfd that
/// is written, a bit that is set.
///
/// Called under locks of the core: it must not block, and must not call the core.
pub trait Doorbell: Send + Sync {
    /// There may be work on `queue`. Rings may merge, and must not be lost.
    fn ring(&self, queue: u16);
}

/// A write of the driver that means no more than "look at this queue", so that a hypervisor can turn it into an event
/// (KVM's ioeventfd) without an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification {
    /// The queue that it is about.
    pub queue: u16,
    /// Where, in bytes from the start of the transport's register block or BAR.
    pub offset: u64,
    /// Width of the access in bytes; 0 for any width.
    pub width: u8,
    /// The value, if the place is shared with other queues.
    pub datamatch: Option<u64>,
}
