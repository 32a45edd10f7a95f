//! Status and negotiation (2.1, 2.2, 3.1).
use super::{Control, VirtioCore};
use drystone_memory::Mem;
use std::sync::atomic::Ordering;

/// The driver has seen the device.
pub const ACKNOWLEDGE: u8 = 1;
/// The driver knows how to drive it.
pub const DRIVER: u8 = 2;
/// The driver is ready: the device may work.
pub const DRIVER_OK: u8 = 4;
/// Features are agreed on.
pub const FEATURES_OK: u8 = 8;
/// Only a reset helps.
pub const NEEDS_RESET: u8 = 64;
/// The driver has given up.
pub const FAILED: u8 = 128;

/// VIRTIO_F_INDIRECT_DESC.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// VIRTIO_F_EVENT_IDX.
pub const F_EVENT_IDX: u64 = 1 << 29;
/// VIRTIO_F_VERSION_1. There is no older interface here: a driver must accept it.
pub const F_VERSION_1: u64 = 1 << 32;
/// VIRTIO_F_ACCESS_PLATFORM: addresses go through an IOMMU. A device offers it if its memory does.
pub const F_ACCESS_PLATFORM: u64 = 1 << 33;
/// VIRTIO_F_RING_RESET.
pub const F_RING_RESET: u64 = 1 << 40;

pub(super) const CORE_FEATURES: u64 = F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1 | F_RING_RESET;
/// Bits 0 to 23 and 50 to 63 are the device types' (2.2).
pub(super) const DEVICE_FEATURES: u64 = 0x00ff_ffff | !0 << 50 | F_ACCESS_PLATFORM;

impl<M: Mem> VirtioCore<M> {
    /// The features that are offered.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The features that the driver has written.
    pub fn driver_features(&self) -> u64 {
        self.control.lock().driver_features
    }

    /// The driver writes 32 of its feature bits: the low ones, or the high ones. Ignored once features are agreed on.
    pub fn set_driver_features(&self, high: bool, value: u32) {
        let mut control = self.control.lock();
        if self.status() & (FEATURES_OK | NEEDS_RESET) == 0 {
            let shift = if high { 32 } else { 0 };
            let others = control.driver_features & !(0xffff_ffff << shift);
            control.driver_features = others | u64::from(value) << shift;
        }
    }

    /// The status register. Takes no lock.
    pub fn status(&self) -> u8 {
        self.shared.status.load(Ordering::SeqCst)
    }

    /// The driver writes the status register. 0 resets, and returns when nothing touches guest memory any more, or when
    /// patience is at its end; see [`reset`](Self::reset).
    ///
    /// Bits are only ever added, in the order of 3.1.1: one that is written too early, or FEATURES_OK for features that
    /// cannot be (3.1.1, steps 5 and 6), stays clear. A device that needs a reset takes nothing but that.
    pub fn set_status(&self, value: u8) {
        let mut control = self.control.lock();
        let old = self.status();
        if value == 0 {
            // It has been reported, and the driver sees that the status is not 0.
            let _ = self.reset_locked(&mut control);
            return;
        }
        if old & NEEDS_RESET != 0 {
            return;
        }
        let mut new = old;
        for bit in [ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK, FAILED] {
            if value & bit != 0 && self.may_set(bit, new, &control) {
                new |= bit;
            }
        }
        self.shared.status.fetch_or(new, Ordering::SeqCst);
        if new & !old & DRIVER_OK != 0 && !control.paused {
            self.start(&control);
        }
    }

    fn may_set(&self, bit: u8, status: u8, control: &Control) -> bool {
        match bit {
            DRIVER => status & ACKNOWLEDGE != 0,
            FEATURES_OK if status & FEATURES_OK == 0 => {
                status & DRIVER != 0 && self.acceptable(control.driver_features)
            }
            DRIVER_OK => status & FEATURES_OK != 0,
            _ => true,
        }
    }

    /// Can a driver use the device with these features?
    pub(super) fn acceptable(&self, features: u64) -> bool {
        features & !self.features == 0
            && features & F_VERSION_1 != 0
            && self.with_device(|device| device.accept(features)).unwrap_or(false)
    }
}
