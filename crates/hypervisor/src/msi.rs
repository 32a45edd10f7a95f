use crate::Error;

/// An interrupt message: a write that a device makes to a local APIC (Intel SDM volume 3, 11.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Msi {
    /// Where it is written: 0xfee in bits 31:20, the destination's APIC ID in bits 19:12.
    pub address: u64,
    /// What is written: the vector in bits 7:0, the delivery mode in bits 10:8.
    pub data: u32,
}

impl Msi {
    /// A fixed interrupt for one local APIC, edge-triggered.
    pub const fn fixed(apic_id: u8, vector: u8) -> Self {
        Self { address: 0xfee0_0000 | (apic_id as u64) << 12, data: vector as u32 }
    }

    /// A non-maskable interrupt for one local APIC.
    pub const fn nmi(apic_id: u8) -> Self {
        Self { address: 0xfee0_0000 | (apic_id as u64) << 12, data: 4 << 8 }
    }
}

/// An event that sends an interrupt message: one vector of a device. The message can be changed and masked at any time,
/// from any thread; once this is dropped the event sends nothing any more.
///
/// This is what a device's MSI-X table needs: an entry is [`set`](Self::set) when the guest writes or unmasks it, set to
/// `None` when the guest masks it, and its bit in the pending bit array is [`is_pending`](Self::is_pending) (PCI 6.0,
/// 7.7.2).
pub trait MsiRoute: Send + Sync {
    /// The message that the event sends from now on. `None` masks it, as it is in the beginning: an event that is
    /// written meanwhile waits, and sends the next message that is set, once.
    ///
    /// # Errors
    /// [`Error::Call`] when the host refuses. Nothing has changed then.
    fn set(&self, message: Option<Msi>) -> Result<(), Error>;

    /// Whether the event was written while it was masked, and waits. Reading the event takes that back.
    fn is_pending(&self) -> bool;
}
