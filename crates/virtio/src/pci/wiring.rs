/// Follows a device to where the guest puts it: a hypervisor that turns writes to doorbells into events (KVM's ioeventfd), or
/// maps shared memory, knows them by their addresses.
///
/// Called whenever a BAR comes to an address or leaves it, from a vCPU's thread, one call at a time for a device. It must not
/// call the device.
pub trait Wiring: Send + Sync {
    /// The doorbells are now at these guest-physical addresses, by queue, and nowhere else; or nowhere at all. A write of any
    /// width there means: look at this queue. One that no hypervisor takes reaches the device as any other access.
    fn doorbells(&self, at: &[(u16, u64)]);

    /// The shared memory region `id` (2.10) now begins at this guest-physical address, or is nowhere.
    fn shared_memory(&self, id: u8, at: Option<u64>) {
        let _ = (id, at);
    }
}

/// Follows nothing: every access comes to the device.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwired;

impl Wiring for Unwired {
    fn doorbells(&self, _: &[(u16, u64)]) {}
}
