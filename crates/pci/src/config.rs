mod capability;
mod guarded;
mod header;
mod state;

pub use capability::CapabilityError;
pub use guarded::Config;
pub use header::{Class, Identity};
pub use state::ConfigState;

use crate::bar::{BARS, Bar, BarError, BarKind, Decoded};
use std::ops::Range;

use header::{COMMAND, COMMAND_IO, COMMAND_MASTER, COMMAND_MEMORY, FIRST_BAR};

/// The size of a function's configuration space with ECAM, in bytes (PCI Express 6.0, 7.2.2).
pub const CONFIG_SIZE: u16 = 4096;
/// What of it can be reached without ECAM.
const CONVENTIONAL_SIZE: usize = 256;

/// One byte of configuration space, and what a write does to each of its bits.
#[derive(Debug, Clone, Copy, Default)]
struct Byte {
    value: u8,
    /// What a reset leads back to.
    initial: u8,
    /// Bits that take what is written.
    writable: u8,
    /// Bits that are cleared by writing 1.
    clears: u8,
}

/// The type-0 configuration space of one function: 4096 bytes with a mask for each bit, BARs, and capabilities
/// (PCI Local Bus 3.0, chapter 6; PCI Express 6.0, 7.5).
///
/// Plain data without a lock: a device puts it together when it is made, and then keeps it in a [`Config`]. All
/// registers are little endian. Accesses of any width at any offset are sound; whatever is not there reads as zeros within
/// the 4096 bytes and as ones past them.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    /// As far as there is anything: most functions have nothing in the extended 3840 bytes. Behind it are zeros.
    bytes: Vec<Byte>,
    bars: [Option<Bar>; BARS],
    /// Where the next capability goes, and where the pointer to it is.
    next: capability::Cursor,
    next_extended: capability::Cursor,
}

impl ConfigSpace {
    /// A function that says who it is, and has no BAR and no capability.
    pub fn new(identity: &Identity) -> Self {
        let mut space = Self {
            bytes: Vec::with_capacity(CONVENTIONAL_SIZE),
            bars: [None; BARS],
            next: capability::Cursor::first(),
            next_extended: capability::Cursor::first_extended(),
        };
        space.write_header(identity);
        space
    }

    /// Gives the function a BAR of `size` bytes, at address 0: see [`place`](Self::place). `index` is 0 to 5; a 64-bit BAR
    /// takes the next index as well.
    ///
    /// # Errors
    /// [`BarError`] when the index is taken or out of range, or no BAR can have that size.
    pub fn add_bar(&mut self, index: usize, kind: BarKind, size: u64) -> Result<(), BarError> {
        let bar = Bar::new(index, kind, size)?;
        let upper = kind.is_64().then_some(index + 1);
        if [Some(index), upper].into_iter().flatten().any(|i| self.is_taken(i)) {
            return Err(BarError::Taken { index });
        }
        if upper.is_some_and(|i| i >= BARS) {
            return Err(BarError::Index { index });
        }
        if let Some(slot) = self.bars.get_mut(index) {
            *slot = Some(bar);
        }
        let decode = if kind == BarKind::Io { COMMAND_IO } else { COMMAND_MEMORY };
        self.define(COMMAND, &[0, 0], &(decode | COMMAND_MASTER).to_le_bytes());
        let (value, mask) = bar.registers();
        let len = if kind.is_64() { 8 } else { 4 };
        let (value, mask) = (value.to_le_bytes(), mask.to_le_bytes());
        let part = |bytes: [u8; 8]| bytes.into_iter().take(len).collect::<Vec<_>>();
        self.define(bar_offset(index), &part(value), &part(mask));
        Ok(())
    }

    fn is_taken(&self, index: usize) -> bool {
        let at = |i: usize| self.bars.get(i).copied().flatten();
        let below = index.checked_sub(1).and_then(at);
        at(index).is_some() || below.is_some_and(|b| b.kind.is_64())
    }

    /// The BARs by index.
    pub fn bars(&self) -> impl Iterator<Item = (usize, Bar)> {
        self.bars.iter().enumerate().filter_map(|(i, bar)| Some((i, (*bar)?)))
    }

    /// Puts a BAR at `address`, also as what a reset leads back to. The bits below its size are ignored; nothing happens to a
    /// BAR that does not exist. It is decoded once the guest sets the command register's enable bit.
    pub fn place(&mut self, index: usize, address: u64) {
        let Some(bar) = self.bars.get(index).copied().flatten() else { return };
        let (flags, mask) = bar.registers();
        let value = (address & mask | flags).to_le_bytes();
        let len = if bar.kind.is_64() { 8 } else { 4 };
        for (byte, value) in self.reach(bar_offset(index), len).zip(value) {
            (byte.value, byte.initial) = (value, value);
        }
    }

    /// Where a BAR is, decoded or not; `None` if it does not exist.
    pub fn address(&self, index: usize) -> Option<u64> {
        self.base(index, |byte| byte.value)
    }

    /// What a BAR's registers say if their bytes are what `of` makes of them.
    fn base(&self, index: usize, of: impl Fn(&Byte) -> u8) -> Option<u64> {
        let bar = self.bars.get(index).copied().flatten()?;
        let len = if bar.kind.is_64() { 8 } else { 4 };
        let registers = self.bytes.iter().skip(bar_offset(index).into()).take(len);
        let value = registers.rev().fold(0, |value, byte| value << 8 | u64::from(of(byte)));
        let (_, mask) = bar.registers();
        Some(value & mask)
    }

    /// The addresses that the function claims now: BARs whose space the command register enables.
    pub fn decoded(&self) -> Vec<Decoded> {
        let command = self.u16(COMMAND);
        let mut claimed = Vec::new();
        for (index, bar) in self.bars() {
            let enable = if bar.kind == BarKind::Io { COMMAND_IO } else { COMMAND_MEMORY };
            if let Some(base) = self.address(index).filter(|_| command & enable != 0) {
                claimed.push(Decoded { index, bar, base });
            }
        }
        claimed
    }

    /// The addresses of all BARs, decoded or not, and those that a reset leads back to; and whether they are I/O ports.
    pub(crate) fn claims(&self) -> Vec<(bool, Range<u64>)> {
        let claims = |(index, bar): (usize, Bar)| {
            let bases = [self.address(index), self.base(index, |byte| byte.initial)];
            bases
                .into_iter()
                .flatten()
                .map(move |base| (bar.kind == BarKind::Io, base..base.saturating_add(bar.size)))
        };
        self.bars().flat_map(claims).collect()
    }

    /// Whether the guest lets the function reach memory, and so deliver messages.
    pub fn bus_master(&self) -> bool {
        self.u16(COMMAND) & COMMAND_MASTER != 0
    }

    /// The guest reads from `offset` on.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (i, byte) in (0..).zip(data) {
            *byte = match usize::from(offset).checked_add(i) {
                Some(at) if at < CONFIG_SIZE.into() => self.value(at),
                _ => 0xff,
            };
        }
    }

    /// The guest writes from `offset` on: only bits that may be written change.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        for (byte, new) in self.bytes.iter_mut().skip(offset.into()).zip(data) {
            let kept = byte.value & !byte.writable & !(byte.clears & new);
            byte.value = kept | new & byte.writable;
        }
    }

    /// A 16-bit register; zero past the end.
    pub fn u16(&self, offset: u16) -> u16 {
        self.register(offset).map_or(0, u16::from_le_bytes)
    }

    /// A 32-bit register; zero past the end.
    pub fn u32(&self, offset: u16) -> u32 {
        self.register(offset).map_or(0, u32::from_le_bytes)
    }

    fn register<const N: usize>(&self, offset: u16) -> Option<[u8; N]> {
        let at = usize::from(offset);
        let end = at.checked_add(N).filter(|end| *end <= CONFIG_SIZE.into())?;
        let mut out = [0; N];
        out.iter_mut().zip(at..end).for_each(|(to, at)| *to = self.value(at));
        Some(out)
    }

    fn value(&self, at: usize) -> u8 {
        self.bytes.get(at).map_or(0, |b| b.value)
    }

    /// The `len` bytes from `offset` on, as far as they are within the space, to put something there.
    fn reach(&mut self, offset: u16, len: usize) -> impl Iterator<Item = &mut Byte> {
        let start = usize::from(offset);
        // Whole registers, which is how they are saved.
        let end = start.saturating_add(len).min(CONFIG_SIZE.into()).next_multiple_of(4);
        if self.bytes.len() < end {
            self.bytes.resize(end, Byte::default());
        }
        self.bytes.iter_mut().skip(start).take(len)
    }

    /// The device changes registers, whatever the guest may write to them. What is past the end is ignored.
    pub fn set(&mut self, offset: u16, data: &[u8]) {
        for (byte, new) in self.reach(offset, data.len()).zip(data) {
            byte.value = *new;
        }
    }

    /// Lets the guest clear bits that the device sets, by writing 1 to them. What is past the end is ignored.
    pub fn clear_by_one(&mut self, offset: u16, bits: &[u8]) {
        for (byte, bits) in self.reach(offset, bits.len()).zip(bits) {
            byte.clears |= bits;
            byte.writable &= !bits;
        }
    }

    /// Every register as it was when the function was put together, and every BAR where it was last placed.
    pub fn reset(&mut self) {
        self.bytes.iter_mut().for_each(|b| b.value = b.initial);
    }

    /// Sets registers, and adds to what the guest may write of them.
    fn define(&mut self, offset: u16, value: &[u8], writable: &[u8]) {
        for ((byte, value), mask) in self.reach(offset, value.len()).zip(value).zip(writable) {
            (byte.value, byte.initial) = (*value, *value);
            byte.writable |= mask;
        }
    }
}

fn bar_offset(index: usize) -> u16 {
    FIRST_BAR.saturating_add(u16::try_from(index).unwrap_or(u16::MAX).saturating_mul(4))
}

#[cfg(test)]
mod tests;
