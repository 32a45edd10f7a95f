//! Configuration space: who the device is, its BARs, and the capabilities that say where its structures are (4.1.4).
use super::identity::identity;
use super::layout::{self, DOORBELL_STRIDE, Layout, SharedPlace};
use super::window::Window;
use super::{BAR, PciError, SHARED_MEMORY_BAR};
use drystone_pci::{BarKind, CapabilityError, ConfigSpace, Msix, Vector};
use std::ops::Range;
use std::sync::Arc;

/// A capability that a vendor gives a meaning.
const VENDOR_SPECIFIC: u8 = 0x09;
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const ISR: u8 = 3;
const DEVICE: u8 = 4;
const CONFIG_ACCESS: u8 = 5;
const SHARED_MEMORY: u8 = 8;
/// The length of `struct virtio_pci_cap`.
const LEN: usize = 16;

pub(super) struct Built {
    pub space: ConfigSpace,
    pub msix: Msix,
    pub window: Window,
}

pub(super) fn build(
    device_type: u32,
    layout: &Layout,
    shared: &[SharedPlace],
    vectors: Vec<Arc<dyn Vector>>,
) -> Result<Built, PciError> {
    let mut space = ConfigSpace::new(&identity(device_type)?);
    space.add_bar(BAR, BarKind::Memory64, layout.size)?;
    add(&mut space, COMMON, &layout.common(), &[])?;
    add(&mut space, ISR, &layout.isr(), &[])?;
    if let Some(device) = layout.device() {
        add(&mut space, DEVICE, &device, &[])?;
    }
    add(&mut space, NOTIFY, &layout.notify(), &(DOORBELL_STRIDE as u32).to_le_bytes())?;
    if let Some(size) = layout::shared_size(shared).filter(|size| *size > 0) {
        space.add_bar(SHARED_MEMORY_BAR, BarKind::Memory64, size)?;
    }
    for region in shared {
        add_shared(&mut space, region)?;
    }
    let window = Window::new(add_window(&mut space)?);
    let msix = Msix::new(&mut space, layout.msix, vectors)?;
    Ok(Built { space, msix, window })
}

/// The body of a capability of this type, behind its first two bytes.
fn body(kind: u8, bar: usize, id: u8, range: (u32, u32), extra: &[u8]) -> Vec<u8> {
    let len = u8::try_from(LEN + extra.len()).unwrap_or(u8::MAX);
    let mut body = vec![len, kind, u8::try_from(bar).unwrap_or(0), id, 0, 0];
    body.extend([range.0, range.1].map(u32::to_le_bytes).as_flattened());
    body.extend(extra);
    body
}

fn add(space: &mut ConfigSpace, kind: u8, at: &Range<u64>, extra: &[u8]) -> Result<u16, CapabilityError> {
    // The layout has kept everything below 4 GiB.
    let range = (at.start as u32, (at.end - at.start) as u32);
    space.add_capability(VENDOR_SPECIFIC, &body(kind, BAR, 0, range, extra), &[])
}

/// `struct virtio_pci_cap64`.
fn add_shared(space: &mut ConfigSpace, region: &SharedPlace) -> Result<u16, CapabilityError> {
    let SharedPlace { id, offset, len } = *region;
    let high = [(offset >> 32) as u32, (len >> 32) as u32].map(u32::to_le_bytes);
    let body = body(SHARED_MEMORY, SHARED_MEMORY_BAR, id, (offset as u32, len as u32), high.as_flattened());
    space.add_capability(VENDOR_SPECIFIC, &body, &[])
}

/// `struct virtio_pci_cfg_cap`: the driver may write the BAR's number, offset, length and data.
fn add_window(space: &mut ConfigSpace) -> Result<u16, CapabilityError> {
    let body = body(CONFIG_ACCESS, 0, 0, (0, 0), &[0; 4]);
    let mut writable = vec![0, 0, 0xff, 0, 0, 0];
    writable.extend([0xff; 12]);
    space.add_capability(VENDOR_SPECIFIC, &body, &writable)
}
