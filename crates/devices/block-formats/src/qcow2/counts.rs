/// Where a reference count is in its block.
pub(crate) struct Place {
    /// The first byte, from the beginning of the block.
    pub at: u64,
    pub len: usize,
    /// The lowest bit of it, if several are in a byte.
    shift: u32,
    bits: u32,
}

impl Place {
    /// That of the block's entry `index`, of 2^`order` bits.
    pub fn of(index: u64, order: u32) -> Self {
        let bits = 1 << order.min(6);
        let bit = index * u64::from(bits);
        let (len, shift) = if bits < 8 { (1, (bit % 8) as u32) } else { (bits as usize / 8, 0) };
        Self { at: bit / 8, len, shift, bits }
    }

    /// Makes it 1 in these bytes if it is 0, and says whether it was.
    pub fn raise(&self, bytes: &mut [u8]) -> bool {
        if self.bits < 8 {
            let Some(byte) = bytes.first_mut() else { return false };
            let mask = ((1u16 << self.bits) - 1) as u8;
            let was_zero = (*byte >> self.shift) & mask == 0;
            *byte |= u8::from(was_zero) << self.shift;
            return was_zero;
        }
        let was_zero = bytes.iter().all(|b| *b == 0);
        if let Some(last) = bytes.last_mut().filter(|_| was_zero) {
            *last = 1;
        }
        was_zero
    }
}
