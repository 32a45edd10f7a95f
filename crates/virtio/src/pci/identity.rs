//! Who a device says it is (4.1.2).
use super::PciError;
use drystone_pci::{Class, Identity};

/// Red Hat, for virtio.
const VENDOR: u16 = 0x1af4;
/// The PCI device ID of virtio device type 0.
const FIRST_DEVICE: u16 = 0x1040;
/// The last type that has an ID.
const LAST_TYPE: u16 = 0x3f;
/// A device without a legacy interface says so by these two.
const REVISION: u8 = 1;
const FIRST_SUBSYSTEM: u16 = 0x40;

/// The identity of a device of this type.
pub(super) fn identity(device_type: u32) -> Result<Identity, PciError> {
    let number = u16::try_from(device_type).ok().filter(|t| (1..=LAST_TYPE).contains(t));
    let number = number.ok_or(PciError::Type(device_type))?;
    Ok(Identity {
        vendor: VENDOR,
        device: FIRST_DEVICE + number,
        revision: REVISION,
        class: class(device_type),
        subsystem_vendor: VENDOR,
        subsystem: FIRST_SUBSYSTEM + number,
    })
}

/// What programs that list devices call it; drivers do not look at it. The classes are those that other VMMs give.
fn class(device_type: u32) -> Class {
    let (base, sub) = match device_type {
        1 => (0x02, 0x00),      // network: Ethernet
        2 | 8 => (0x01, 0x00),  // block, SCSI: SCSI storage
        3 | 19 => (0x07, 0x80), // console, vsock: other communication
        16 => (0x03, 0x80),     // GPU: other display
        18 => (0x09, 0x80),     // input: other input
        26 => (0x01, 0x80),     // file system: other storage
        _ => (0xff, 0x00),      // of no class
    };
    Class { base, sub, interface: 0 }
}
