use vmm_sys_util::eventfd::EventFd;

/// An edge-triggered interrupt input, wired to one device. Called under device locks: it must not block, and
/// must not call a device.
pub trait Interrupt: Send + Sync {
    /// Signals the interrupt once. Signals that come faster than the guest takes them merge.
    fn trigger(&self);
}

/// An eventfd that the hypervisor listens to (KVM's irqfd), or an event loop.
impl Interrupt for EventFd {
    fn trigger(&self) {
        // A full counter (only a non-blocking one refuses) already says what this write would.
        let _ = self.write(1);
    }
}

impl<T: Interrupt + ?Sized> Interrupt for std::sync::Arc<T> {
    fn trigger(&self) {
        (**self).trigger();
    }
}
