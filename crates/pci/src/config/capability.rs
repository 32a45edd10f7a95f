use super::header::{CAPABILITIES, STATUS, STATUS_CAPABILITIES};
use super::{CONFIG_SIZE, ConfigSpace};

/// Where conventional capabilities may be: after the header, in the first 256 bytes.
const FIRST: u16 = 0x40;
const FIRST_EXTENDED: u16 = 0x100;
const HEADER: usize = 2;
const EXTENDED_HEADER: usize = 4;

/// Why a capability could not be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CapabilityError {
    /// No room is left.
    #[error("PCI capability {id:#x} of {len} bytes: {left} bytes of configuration space are left for it")]
    Full {
        /// The capability's id.
        id: u16,
        /// Its length with its header, in bytes.
        len: usize,
        /// The room that is left.
        left: usize,
    },
    /// A version that its four bits do not hold.
    #[error("PCI capability {id:#x}: version {version} is above 15")]
    Version {
        /// The capability's id.
        id: u16,
        /// The version.
        version: u8,
    },
}

/// A chain under construction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    /// Where the next capability goes.
    free: u16,
    end: u16,
    /// The last capability of the chain, which has the pointer to the next.
    last: Option<u16>,
}

impl Cursor {
    pub(super) fn first() -> Self {
        Self { free: FIRST, end: FIRST_EXTENDED, last: None }
    }

    pub(super) fn first_extended() -> Self {
        Self { free: FIRST_EXTENDED, end: CONFIG_SIZE, last: None }
    }

    /// Takes `len` bytes, rounded up to whole double words.
    fn take(&mut self, id: u16, len: usize) -> Result<(u16, Option<u16>), CapabilityError> {
        let left = self.end.saturating_sub(self.free);
        let rounded = u16::try_from(len.next_multiple_of(4)).ok().filter(|l| *l <= left);
        let rounded = rounded.ok_or(CapabilityError::Full { id, len, left: left.into() })?;
        let at = self.free;
        self.free += rounded;
        Ok((at, self.last.replace(at)))
    }
}

impl ConfigSpace {
    /// Appends a capability (PCI Local Bus 3.0, 6.7) and returns its offset. `body` is what follows the two bytes of its
    /// header; `writable` has a 1 for each bit of it that the guest may write, and may be shorter.
    ///
    /// # Errors
    /// [`CapabilityError::Full`] when the first 256 bytes have no room for it.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Result<u16, CapabilityError> {
        let (at, before) = self.next.take(id.into(), HEADER.saturating_add(body.len()))?;
        let pointer = [u8::try_from(at).unwrap_or(0)];
        match before {
            Some(before) => self.define(before + 1, &pointer, &[0]),
            None => {
                self.define(CAPABILITIES, &pointer, &[0]);
                self.define(STATUS, &STATUS_CAPABILITIES.to_le_bytes(), &[0; 2]);
            }
        }
        self.define(at, &[id, 0], &[0; HEADER]);
        self.define_body(at + HEADER as u16, body, writable);
        Ok(at)
    }

    /// Appends an extended capability (PCI Express 6.0, 7.6) and returns its offset. `body` is what follows the four bytes
    /// of its header; `writable` as for [`add_capability`](Self::add_capability). Linux looks for them only if the function
    /// has a PCI Express capability.
    ///
    /// # Errors
    /// [`CapabilityError::Full`] when the 4096 bytes have no room for it, [`CapabilityError::Version`] above 15.
    pub fn add_extended_capability(
        &mut self,
        id: u16,
        version: u8,
        body: &[u8],
        writable: &[u8],
    ) -> Result<u16, CapabilityError> {
        if version > 0xf {
            return Err(CapabilityError::Version { id, version });
        }
        let (at, before) = self.next_extended.take(id, EXTENDED_HEADER.saturating_add(body.len()))?;
        if let Some(before) = before {
            let header = self.u32(before) | u32::from(at) << 20;
            self.define(before, &header.to_le_bytes(), &[0; EXTENDED_HEADER]);
        }
        let header = u32::from(id) | u32::from(version) << 16;
        self.define(at, &header.to_le_bytes(), &[0; EXTENDED_HEADER]);
        self.define_body(at + EXTENDED_HEADER as u16, body, writable);
        Ok(at)
    }

    fn define_body(&mut self, at: u16, body: &[u8], writable: &[u8]) {
        let masks: Vec<u8> = writable.iter().copied().chain(std::iter::repeat(0)).take(body.len()).collect();
        self.define(at, body, &masks);
    }
}
