use crate::Config;
use drystone_bus::Effect;

/// A device in a slot: what a guest's accesses to it come to. Called from any vCPU thread, also from several at once.
///
/// The guest chooses offsets, lengths and values freely. No call may panic, block on the guest, or allocate without
/// bound. Data is as long as the guest's access, 1 to 8 bytes, little endian.
pub trait Function: Send + Sync {
    /// Its configuration space and MSI-X structures; accesses to the latter never reach the function. For one whose
    /// registers only hold what is written to them, this is enough.
    fn config(&self) -> &Config;

    /// The guest reads configuration space. Offset and length stay within its 4096 bytes.
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.config().read(offset, data);
    }

    /// The guest writes configuration space. Whoever overrides it passes on the effect of [`Config::write`].
    fn config_write(&self, offset: u16, data: &[u8]) -> Effect {
        self.config().write(offset, data)
    }

    /// The guest reads in BAR `bar`, at `offset` from its start; it never reaches past its end. `data` arrives filled with
    /// ones.
    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]);

    /// The guest writes in BAR `bar`, at `offset` from its start; it never reaches past its end.
    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]) -> Effect;

    /// BAR `bar` is now on the bus at `base`, or not any more. For what has to follow it, such as doorbells that the
    /// hypervisor knows by their addresses. It must not call the segment.
    fn bar_moved(&self, bar: usize, base: Option<u64>);
}

/// The guest reads in a BAR of `function`: in its MSI-X structures, if they are there, else in the function's own registers.
/// For whoever serves BARs without a [`Segment`](crate::Segment), which does this by itself.
pub fn read_bar(function: &dyn Function, bar: usize, offset: u64, data: &mut [u8]) {
    if !function.config().msix().is_some_and(|msix| msix.read(bar, offset, data)) {
        function.bar_read(bar, offset, data);
    }
}

/// The guest writes in a BAR of `function`: see [`read_bar`].
pub fn write_bar(function: &dyn Function, bar: usize, offset: u64, data: &[u8]) -> Effect {
    if function.config().msix().is_some_and(|msix| msix.write(bar, offset, data)) {
        return Effect::None;
    }
    function.bar_write(bar, offset, data)
}
