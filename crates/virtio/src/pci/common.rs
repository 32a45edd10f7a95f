//! The common configuration structure (4.1.4.3).
use super::Pci;
use super::signals::NO_VECTOR;
use crate::QueueRegisters;
use drystone_memory::Mem;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

const DEVICE_FEATURE_SELECT: u64 = 0x00;
const DEVICE_FEATURE: u64 = 0x04;
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0c;
const CONFIG_MSIX_VECTOR: u64 = 0x10;
const NUM_QUEUES: u64 = 0x12;
const DEVICE_STATUS: u64 = 0x14;
const CONFIG_GENERATION: u64 = 0x15;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_MSIX_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_NOTIFY_OFF: u64 = 0x1e;
/// queue_desc, queue_driver and queue_device, 64 bits each.
const QUEUE_ADDRESSES: Range<u64> = 0x20..0x38;
const QUEUE_RESET: u64 = 0x3a;
// queue_notif_config_data, admin_queue_index and admin_queue_num belong to features that are not offered, and read as zero.

/// What the structure keeps by itself.
#[derive(Default)]
pub(super) struct Common {
    pub device_features: AtomicU32,
    pub driver_features: AtomicU32,
    pub queue: AtomicU16,
    generation: Mutex<Generation>,
}

/// The configuration generation as the driver has seen it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Generation {
    /// The core's, when it was last looked at.
    pub of: u32,
    pub shown: u8,
}

impl Common {
    pub fn reset(&self) {
        let Self { device_features, driver_features, queue, generation } = self;
        device_features.store(0, Ordering::Relaxed);
        driver_features.store(0, Ordering::Relaxed);
        queue.store(0, Ordering::Relaxed);
        *generation.lock() = Generation::default();
    }

    /// A byte that is another one whenever the core's has changed since the last look: its own low byte would be the same
    /// again after 256 changes (4.1.4.3.1).
    fn generation(&self, now: u32) -> u8 {
        let mut generation = self.generation.lock();
        if generation.of != now {
            *generation = Generation { of: now, shown: generation.shown.wrapping_add(1) };
        }
        generation.shown
    }

    pub fn seen(&self) -> Generation {
        *self.generation.lock()
    }

    pub fn set_seen(&self, generation: Generation) {
        *self.generation.lock() = generation;
    }
}

/// Which half of 64 feature bits, in bits to shift by; `None` for what is beyond.
fn half(select: u32) -> Option<u32> {
    (select < 2).then(|| 32 * select)
}

/// A part of one of the three addresses: which one, and from which bit on.
fn address_part(at: u64, len: usize) -> Option<(usize, u32)> {
    let offset = at.checked_sub(QUEUE_ADDRESSES.start).filter(|_| QUEUE_ADDRESSES.contains(&at))?;
    let aligned = matches!(len, 4 | 8) && offset.is_multiple_of(len as u64);
    aligned.then_some(((offset / 8) as usize, (offset % 8 * 8) as u32))
}

fn addresses(queue: &mut QueueRegisters) -> [&mut u64; 3] {
    [&mut queue.descriptors, &mut queue.available, &mut queue.used]
}

impl<M: Mem> Pci<M> {
    /// `data` arrives zeroed.
    pub(super) fn common_read(&self, at: u64, data: &mut [u8]) {
        let value = self.common_value(at, data.len()).unwrap_or(0);
        data.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
    }

    /// What a read of `len` bytes at `at` gives; `None` where there is no such field.
    fn common_value(&self, at: u64, len: usize) -> Option<u64> {
        let Common { device_features, driver_features, queue, generation: _ } = &self.common;
        let select = queue.load(Ordering::Relaxed);
        let feature = |bits: u64, select: u32| half(select).map_or(0, |shift| bits >> shift & 0xffff_ffff);
        Some(match (at, len) {
            (DEVICE_FEATURE_SELECT, 4) => device_features.load(Ordering::Relaxed).into(),
            (DEVICE_FEATURE, 4) => feature(self.core.features(), device_features.load(Ordering::Relaxed)),
            (DRIVER_FEATURE_SELECT, 4) => driver_features.load(Ordering::Relaxed).into(),
            (DRIVER_FEATURE, 4) => {
                feature(self.core.driver_features(), driver_features.load(Ordering::Relaxed))
            }
            (CONFIG_MSIX_VECTOR, 2) => self.signals.config_vector().into(),
            (NUM_QUEUES, 2) => self.core.description().queue_sizes.len() as u64,
            (DEVICE_STATUS, 1) => self.core.status().into(),
            (CONFIG_GENERATION, 1) => self.common.generation(self.core.config_generation()).into(),
            (QUEUE_SELECT, 2) => select.into(),
            (QUEUE_MSIX_VECTOR, 2) => self.signals.queue_vector(select).into(),
            (QUEUE_SIZE, 2) => self.core.queue(select)?.size.into(),
            (QUEUE_ENABLE, 2) => self.core.queue(select)?.enabled.into(),
            (QUEUE_NOTIFY_OFF, 2) => self.core.queue(select).map(|_| select.into())?,
            (QUEUE_RESET, 2) => self.core.queue(select)?.resetting.into(),
            _ => {
                let (which, shift) = address_part(at, len)?;
                let mut registers = self.core.queue(select)?;
                let address = addresses(&mut registers).into_iter().nth(which)?;
                *address >> shift
            }
        })
    }

    pub(super) fn common_write(&self, at: u64, data: &[u8]) {
        let Common { device_features, driver_features, queue, generation: _ } = &self.common;
        let select = queue.load(Ordering::Relaxed);
        let value = data.iter().rev().fold(0, |value: u64, byte| value << 8 | u64::from(*byte));
        match (at, data.len()) {
            (DEVICE_FEATURE_SELECT, 4) => device_features.store(value as u32, Ordering::Relaxed),
            (DRIVER_FEATURE_SELECT, 4) => driver_features.store(value as u32, Ordering::Relaxed),
            (DRIVER_FEATURE, 4) => {
                if let Some(shift) = half(driver_features.load(Ordering::Relaxed)) {
                    self.core.set_driver_features(shift > 0, value as u32);
                }
            }
            (CONFIG_MSIX_VECTOR, 2) => self.signals.set_config_vector(value as u16),
            (DEVICE_STATUS, 1) => self.write_status(value as u8),
            (QUEUE_SELECT, 2) => queue.store(value as u16, Ordering::Relaxed),
            (QUEUE_SIZE, 2) => self.core.set_queue(select, |q| q.size = value as u16),
            (QUEUE_MSIX_VECTOR, 2) => self.signals.set_queue_vector(select, value as u16),
            (QUEUE_ENABLE, 2) if value == 1 => self.core.enable_queue(select),
            (QUEUE_RESET, 2) if value == 1 => self.reset_queue(select),
            (at, len) => {
                if let Some((which, shift)) = address_part(at, len) {
                    self.core.set_queue(select, |q| set_address(q, which, shift, len, value));
                }
            }
        }
    }

    fn write_status(&self, value: u8) {
        self.core.set_status(value);
        if value == 0 && self.core.status() == 0 {
            self.signals.unmap();
        }
    }

    /// All of a queue's state returns to what it was, its vector too (2.6.1.1).
    fn reset_queue(&self, queue: u16) {
        if self.core.may_reset_queues() {
            self.core.reset_queue(queue);
            self.signals.set_queue_vector(queue, NO_VECTOR);
        }
    }
}

fn set_address(queue: &mut QueueRegisters, which: usize, shift: u32, len: usize, value: u64) {
    if let Some(address) = addresses(queue).into_iter().nth(which) {
        let mask = if len == 8 { u64::MAX } else { 0xffff_ffff << shift };
        *address = *address & !mask | value << shift & mask;
    }
}
