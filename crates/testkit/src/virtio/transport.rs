use super::{DriverRing, Ram};
use drystone_memory::Mem;
use drystone_state::{Component, Persist, Schema};
use drystone_virtio::{
    ACKNOWLEDGE, DRIVER, DRIVER_OK, F_VERSION_1, FEATURES_OK, Mmio, MmioState, VirtioCore,
};
use std::fmt::Debug;

use std::sync::Arc;

/// What a driver does to a transport, whichever it is.
pub trait Transport {
    /// The device type.
    fn device_type(&self) -> u32;
    /// The features that are offered.
    fn offered(&self) -> u64;
    /// Writes the driver's features.
    fn accept(&self, features: u64);
    /// Reads the status.
    fn status(&self) -> u8;
    /// Writes the status; 0 resets.
    fn set_status(&self, status: u8);
    /// The largest size of a queue; 0 if there is no such queue.
    fn max_size(&self, queue: u16) -> u32;
    /// Sets size and addresses (descriptors, available, used) of a queue, and enables it.
    fn set_queue(&self, queue: u16, size: u16, areas: [u64; 3]);
    /// Is it enabled?
    fn enabled(&self, queue: u16) -> bool;
    /// Resets a queue (VIRTIO_F_RING_RESET). True when that is done.
    fn reset_queue(&self, queue: u16) -> bool;
    /// Tells the device to look at a queue.
    fn notify(&self, queue: u16);
    /// Reads which interrupts are pending, bit 0 for queues and bit 1 for the configuration, and acknowledges them.
    fn take_interrupts(&self) -> u32;
    /// The generation of the configuration space.
    fn generation(&self) -> u32;
    /// Reads the configuration space.
    fn config_read(&self, offset: u64, out: &mut [u8]);
    /// Writes the configuration space.
    fn config_write(&self, offset: u64, data: &[u8]);
    /// A shared memory region's length and address.
    fn shared_memory(&self, id: u8) -> Option<(u64, u64)>;
}

/// A transport together with the device behind it, as a machine holds it.
pub trait Plugged: Transport {
    /// The device's saved state.
    type State: Schema + PartialEq + Debug;
    /// The device with its registers.
    type Device: Component + Persist<State = Self::State>;

    /// Holds `device`.
    fn plug(device: Self::Device) -> Self;
    /// The device with its registers.
    fn device(&self) -> &Self::Device;
    /// The device behind the registers.
    fn core(&self) -> &Arc<VirtioCore<Ram>>;
    /// What an operating system does before a driver comes.
    fn prepare(&self) {}
    /// Reads anywhere in the device's registers; which place is meant is the transport's to say.
    fn read_anywhere(&self, offset: u16, data: &mut [u8]);
    /// Writes anywhere.
    fn write_anywhere(&self, offset: u16, data: &[u8]);
}

/// Resets a device and brings it up with `features` of those that it offers, and these rings for its first queues.
///
/// # Panics
/// If the device refuses.
pub fn bring_up(transport: &dyn Transport, rings: &[&DriverRing], features: u64) {
    transport.set_status(0);
    assert_eq!(transport.status(), 0, "the device does not reset");
    transport.set_status(ACKNOWLEDGE);
    transport.set_status(ACKNOWLEDGE | DRIVER);
    transport.accept((features | F_VERSION_1) & transport.offered());
    transport.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    assert_ne!(transport.status() & FEATURES_OK, 0, "features {features:#x} are refused");
    for (queue, ring) in (0..).zip(rings) {
        assert!(transport.max_size(queue) >= ring.size().into() && !transport.enabled(queue));
        transport.set_queue(queue, ring.size(), [ring.descriptors(), ring.available(), ring.used()]);
        assert!(transport.enabled(queue));
    }
    transport.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

/// A driver's view of a virtio-mmio device (virtio 1.3, 4.2).
pub struct MmioPort<M: Mem>(pub Arc<Mmio<M>>);

impl<M: Mem> Clone for MmioPort<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M: Mem> MmioPort<M> {
    /// Reads a register.
    pub fn read(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.0.read(offset, &mut data);
        u32::from_le_bytes(data)
    }
    /// Writes a register.
    pub fn write(&self, offset: u64, value: u32) {
        self.0.write(offset, &value.to_le_bytes());
    }
    fn read_pair(&self, offset: u64) -> u64 {
        u64::from(self.read(offset)) | u64::from(self.read(offset + 4)) << 32
    }
}

impl Plugged for MmioPort<Ram> {
    type State = MmioState;
    type Device = Mmio<Ram>;
    fn plug(device: Mmio<Ram>) -> Self {
        Self(Arc::new(device))
    }
    fn device(&self) -> &Mmio<Ram> {
        &self.0
    }
    fn core(&self) -> &Arc<VirtioCore<Ram>> {
        self.0.core()
    }
    fn read_anywhere(&self, offset: u16, data: &mut [u8]) {
        self.0.read((offset % 0x300).into(), data);
    }
    fn write_anywhere(&self, offset: u16, data: &[u8]) {
        self.0.write((offset % 0x300).into(), data);
    }
}

impl<M: Mem> Transport for MmioPort<M> {
    fn device_type(&self) -> u32 {
        assert_eq!((self.read(0), self.read(4)), (0x7472_6976, 2));
        self.read(8)
    }
    fn offered(&self) -> u64 {
        self.write(0x14, 1);
        let high = self.read(0x10);
        self.write(0x14, 0);
        u64::from(self.read(0x10)) | u64::from(high) << 32
    }
    fn accept(&self, features: u64) {
        for half in [0, 1] {
            self.write(0x24, half);
            self.write(0x20, (features >> (32 * half)) as u32);
        }
    }
    fn status(&self) -> u8 {
        self.read(0x70) as u8
    }
    fn set_status(&self, status: u8) {
        self.write(0x70, status.into());
    }
    fn max_size(&self, queue: u16) -> u32 {
        self.write(0x30, queue.into());
        self.read(0x34)
    }
    fn set_queue(&self, queue: u16, size: u16, areas: [u64; 3]) {
        self.write(0x30, queue.into());
        self.write(0x38, size.into());
        for (offset, addr) in [0x80, 0x90, 0xa0].into_iter().zip(areas) {
            self.write(offset, addr as u32);
            self.write(offset + 4, (addr >> 32) as u32);
        }
        self.write(0x44, 1);
    }
    fn enabled(&self, queue: u16) -> bool {
        self.write(0x30, queue.into());
        self.read(0x44) == 1
    }
    fn reset_queue(&self, queue: u16) -> bool {
        self.write(0x30, queue.into());
        self.write(0xc0, 1);
        self.read(0xc0) == 0
    }
    fn notify(&self, queue: u16) {
        self.write(0x50, queue.into());
    }
    fn take_interrupts(&self) -> u32 {
        let pending = self.read(0x60);
        self.write(0x64, pending);
        pending
    }
    fn generation(&self) -> u32 {
        self.read(0xfc)
    }
    fn config_read(&self, offset: u64, out: &mut [u8]) {
        self.0.read(0x100 + offset, out);
    }
    fn config_write(&self, offset: u64, data: &[u8]) {
        self.0.write(0x100 + offset, data);
    }
    fn shared_memory(&self, id: u8) -> Option<(u64, u64)> {
        self.write(0xac, id.into());
        let (len, base) = (self.read_pair(0xb0), self.read_pair(0xb8));
        (len != u64::MAX).then_some((len, base))
    }
}

/// A core without registers in front, for tests that want to see the interrupts of each queue.
pub struct CorePort<M: Mem>(pub Arc<VirtioCore<M>>);

impl<M: Mem> Transport for CorePort<M> {
    fn device_type(&self) -> u32 {
        self.0.description().device_type
    }
    fn offered(&self) -> u64 {
        self.0.features()
    }
    fn accept(&self, features: u64) {
        self.0.set_driver_features(false, features as u32);
        self.0.set_driver_features(true, (features >> 32) as u32);
    }
    fn status(&self) -> u8 {
        self.0.status()
    }
    fn set_status(&self, status: u8) {
        self.0.set_status(status);
    }
    fn max_size(&self, queue: u16) -> u32 {
        self.0.queue(queue).map_or(0, |q| q.max_size.into())
    }
    fn set_queue(&self, queue: u16, size: u16, areas: [u64; 3]) {
        self.0.set_queue(queue, |q| {
            q.size = size;
            [q.descriptors, q.available, q.used] = areas;
        });
        self.0.enable_queue(queue);
    }
    fn enabled(&self, queue: u16) -> bool {
        self.0.queue(queue).is_some_and(|q| q.enabled)
    }
    fn reset_queue(&self, queue: u16) -> bool {
        self.0.reset_queue(queue);
        self.0.queue(queue).is_none_or(|q| !q.resetting)
    }
    fn notify(&self, queue: u16) {
        self.0.notify(queue);
    }
    fn take_interrupts(&self) -> u32 {
        0
    }
    fn generation(&self) -> u32 {
        self.0.config_generation()
    }
    fn config_read(&self, offset: u64, out: &mut [u8]) {
        self.0.config_read(offset, out);
    }
    fn config_write(&self, offset: u64, data: &[u8]) {
        self.0.config_write(offset, data);
    }
    fn shared_memory(&self, _: u8) -> Option<(u64, u64)> {
        None
    }
}
