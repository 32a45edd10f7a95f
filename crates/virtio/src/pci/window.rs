//! The PCI configuration access capability (4.1.4.9): a window in configuration space on the structures in the BAR, for
//! firmware that cannot reach that.
use super::Pci;
use drystone_memory::Mem;
use drystone_pci::Function;

// Offsets in the capability.
const BAR: u16 = 4;
const OFFSET: u16 = 8;
const LENGTH: u16 = 12;
const DATA: u16 = 16;
const DATA_LEN: u16 = 4;

/// Where the capability is in configuration space.
pub(super) struct Window(u16);

impl Window {
    pub fn new(capability: u16) -> Self {
        Self(capability)
    }

    /// Does an access of `len` bytes at `offset` touch the data?
    fn is_data(&self, offset: u16, len: usize) -> bool {
        let (first, end) = (usize::from(self.0 + DATA), usize::from(self.0 + DATA + DATA_LEN));
        let offset = usize::from(offset);
        offset < end && first < offset.saturating_add(len)
    }

    /// What the driver has chosen: an offset in the registers' BAR and a length, if that is an aligned part of one
    /// structure. Anything else is no access at all.
    fn chosen<M: Mem>(&self, device: &Pci<M>) -> Option<(u64, usize)> {
        let (bar, offset, length) = device.config().with(|space| {
            let bar = space.u16(self.0 + BAR) & 0xff;
            (bar, u64::from(space.u32(self.0 + OFFSET)), space.u32(self.0 + LENGTH))
        });
        let possible = usize::from(bar) == super::BAR
            && matches!(length, 1 | 2 | 4)
            && offset.is_multiple_of(length.into())
            && device.layout.holds(offset, length.into());
        possible.then_some((offset, length as usize))
    }

    /// The driver is about to read: fetches what the window shows.
    pub fn before_read<M: Mem>(&self, offset: u16, len: usize, device: &Pci<M>) {
        if !self.is_data(offset, len) {
            return;
        }
        let mut data = [0; DATA_LEN as usize];
        if let Some((at, len)) = self.chosen(device)
            && let Some(data) = data.get_mut(..len)
        {
            device.registers_read(at, data);
        }
        device.config().with(|space| space.set(self.0 + DATA, &data));
    }

    /// The driver has written: passes on what it wrote into the window.
    pub fn after_write<M: Mem>(&self, offset: u16, len: usize, device: &Pci<M>) {
        if !self.is_data(offset, len) {
            return;
        }
        let data = device.config().with(|space| space.u32(self.0 + DATA)).to_le_bytes();
        if let Some((at, len)) = self.chosen(device)
            && let Some(data) = data.get(..len)
        {
            device.registers_write(at, data);
        }
    }
}
