/// What a write asks of the machine beyond the device that received it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "an effect that nobody applies is a request of the guest that is lost"]
pub enum Effect {
    /// Nothing: the device handled it alone.
    #[default]
    None,
    /// The guest switched itself off (ACPI S5).
    PowerOff,
    /// The guest asked for a reset of the machine (keyboard controller, ACPI reset register).
    Reset,
    /// The guest moved ranges of addresses. Whoever dispatched the write calls [`Bus::relocate`](crate::Bus::relocate)
    /// before the guest's next instruction, which may already use the new place.
    Relocate,
    /// The guest's kernel panicked, and said so (pvpanic).
    Panic,
    /// The guest's kernel panicked, and a kernel that it kept for that takes a dump (pvpanic). It goes on by itself.
    CrashLoaded,
}

/// A device on an [`AddressMap`](crate::AddressMap). Called from any vCPU thread, also from several at once: it guards itself.
///
/// Offsets count from the start of the device's range. `data` is as long as the guest's access, 1 to 8 bytes
/// (little endian, as on the wire), and never reaches past the end of the range.
///
/// The guest chooses offsets, lengths and values freely. Neither call may panic, block on the guest's
/// counterpart, or allocate without bound.
pub trait BusDevice: Send + Sync {
    /// The guest reads `data.len()` bytes. The device fills all of them; registers that do not exist read as
    /// all ones, as on a real bus. `data` arrives filled with ones.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// The guest writes `data`. Registers that do not exist swallow it.
    fn write(&self, offset: u64, data: &[u8]) -> Effect;
}
