use super::Message;

/// The size of an entry in bytes: address (8), data (4), control (4).
pub(super) const ENTRY: usize = 16;
const CONTROL: usize = 12;
const MASK: u32 = 1;
/// The two lowest bits of an address are always zero.
const ADDRESS_MASK: u64 = !3;

/// One entry of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) message: Message,
    pub(super) masked: bool,
    /// What the vector was last told.
    pub(super) applied: Option<Message>,
}

impl Default for Entry {
    fn default() -> Self {
        Self { message: Message::default(), masked: true, applied: None }
    }
}

impl Entry {
    /// What it sends, if it is not masked.
    pub(super) fn message(&self) -> Option<Message> {
        (!self.masked).then_some(self.message)
    }

    /// As in the beginning, but for what its vector was told.
    pub(super) fn reset(&mut self) {
        *self = Self { applied: self.applied, ..Self::default() };
    }

    fn bytes(&self) -> [u8; ENTRY] {
        let control = if self.masked { MASK } else { 0 };
        let (high, low) = (u128::from(control), u128::from(self.message.data));
        (high << 96 | low << 64 | u128::from(self.message.address)).to_le_bytes()
    }

    pub(super) fn byte(&self, at: usize) -> u8 {
        self.bytes().get(at).copied().unwrap_or(0)
    }

    pub(super) fn set_byte(&mut self, at: usize, value: u8) {
        let mut bytes = self.bytes();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        let whole = u128::from_le_bytes(bytes);
        self.message = Message { address: whole as u64 & ADDRESS_MASK, data: (whole >> 64) as u32 };
        self.masked = (whole >> (8 * CONTROL)) as u32 & MASK != 0;
    }
}
