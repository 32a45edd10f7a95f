//! The configuration space (2.5).
use super::VirtioCore;
use super::lane::{Locked, contain};
use super::quiesce::Wait;
use crate::{Attempt, VirtioDevice};
use drystone_memory::Mem;
use std::sync::atomic::Ordering;

impl<M: Mem> VirtioCore<M> {
    /// Changes whenever the configuration space has changed (2.5.1). Takes no lock. Transports show as many low bits of
    /// it as they have.
    pub fn config_generation(&self) -> u32 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// The driver reads the configuration space. What lies outside reads as 0, as all does if the device does not
    /// answer in time.
    pub fn config_read(&self, offset: u64, out: &mut [u8]) {
        out.fill(0);
        let inside = self.inside(offset, out.len());
        if let Some(out) = out.get_mut(..inside).filter(|o| !o.is_empty()) {
            self.with_device(|device| device.config_read(offset, out));
        }
    }

    /// The driver writes the configuration space. What lies outside is dropped.
    pub fn config_write(&self, offset: u64, data: &[u8]) {
        let inside = self.inside(offset, data.len());
        if let Some(data) = data.get(..inside).filter(|d| !d.is_empty()) {
            self.with_device(|device| device.config_write(offset, data));
        }
    }

    /// How many of the bytes from `offset` on are in the configuration space.
    fn inside(&self, offset: u64, len: usize) -> usize {
        let room = u64::from(self.description.config_len).saturating_sub(offset);
        usize::try_from(room).unwrap_or(usize::MAX).min(len)
    }

    /// Calls the device, between two batches of its lane. `None` if it is not to be had in time, or panics.
    pub(super) fn with_device<T>(&self, call: impl FnOnce(&mut dyn VirtioDevice<M>) -> T) -> Option<T> {
        let mut inner: Locked<'_, M> = self.lock_lane(0, Attempt::Config, &Wait::from_now(self.patience))?;
        let device = inner.device()?;
        match contain(|| call(device)) {
            Ok(value) => Some(value),
            Err(fault) => {
                self.break_lane(0, &mut inner, &fault);
                None
            }
        }
    }
}
