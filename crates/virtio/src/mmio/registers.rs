//! The registers of 4.2.2.
use super::Mmio;
use crate::QueueRegisters;
use drystone_memory::Mem;
use std::sync::atomic::{AtomicU32, Ordering};

const MAGIC_VALUE: u64 = 0x000;
const VERSION: u64 = 0x004;
const DEVICE_ID: u64 = 0x008;
const VENDOR_ID: u64 = 0x00c;
const DEVICE_FEATURES: u64 = 0x010;
const DEVICE_FEATURES_SEL: u64 = 0x014;
const DRIVER_FEATURES: u64 = 0x020;
const DRIVER_FEATURES_SEL: u64 = 0x024;
const QUEUE_SEL: u64 = 0x030;
const QUEUE_SIZE_MAX: u64 = 0x034;
const QUEUE_SIZE: u64 = 0x038;
const QUEUE_READY: u64 = 0x044;
pub(super) const QUEUE_NOTIFY: u64 = 0x050;
const INTERRUPT_STATUS: u64 = 0x060;
const INTERRUPT_ACK: u64 = 0x064;
const STATUS: u64 = 0x070;
const QUEUE_DESC_LOW: u64 = 0x080;
const QUEUE_DESC_HIGH: u64 = 0x084;
const QUEUE_DRIVER_LOW: u64 = 0x090;
const QUEUE_DRIVER_HIGH: u64 = 0x094;
const QUEUE_DEVICE_LOW: u64 = 0x0a0;
const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
const SHM_SEL: u64 = 0x0ac;
const SHM_LEN_LOW: u64 = 0x0b0;
const SHM_LEN_HIGH: u64 = 0x0b4;
const SHM_BASE_LOW: u64 = 0x0b8;
const SHM_BASE_HIGH: u64 = 0x0bc;
const QUEUE_RESET: u64 = 0x0c0;
const CONFIG_GENERATION: u64 = 0x0fc;
/// Where the configuration space begins.
pub(super) const CONFIG: u64 = 0x100;

/// "virt".
const MAGIC: u32 = 0x7472_6976;
/// "DRYS": who made the device model.
const VENDOR: u32 = 0x5359_5244;

/// Which of several registers an offset means.
#[derive(Default)]
pub(super) struct Selectors {
    pub device_features: AtomicU32,
    pub driver_features: AtomicU32,
    pub queue: AtomicU32,
    pub shared_memory: AtomicU32,
}

impl Selectors {
    pub fn reset(&self) {
        let Self { device_features, driver_features, queue, shared_memory } = self;
        for selector in [device_features, driver_features, queue, shared_memory] {
            selector.store(0, Ordering::Relaxed);
        }
    }
}

fn low(value: u64) -> u32 {
    value as u32
}
fn high(value: u64) -> u32 {
    (value >> 32) as u32
}
fn set_low(value: &mut u64, low: u32) {
    *value = *value & !0xffff_ffff | u64::from(low);
}
fn set_high(value: &mut u64, high: u32) {
    *value = *value & 0xffff_ffff | u64::from(high) << 32;
}

impl<M: Mem> Mmio<M> {
    pub(super) fn read_register(&self, offset: u64) -> u32 {
        match offset {
            MAGIC_VALUE => MAGIC,
            VERSION => 2,
            DEVICE_ID => self.core.description().device_type,
            VENDOR_ID => VENDOR,
            DEVICE_FEATURES => match self.selectors.device_features.load(Ordering::Relaxed) {
                0 => low(self.core.features()),
                1 => high(self.core.features()),
                _ => 0,
            },
            QUEUE_SIZE_MAX => self.selected().map_or(0, |q| q.max_size.into()),
            QUEUE_READY => self.selected().is_some_and(|q| q.enabled).into(),
            INTERRUPT_STATUS => self.line.status(),
            STATUS => self.core.status().into(),
            SHM_LEN_LOW => low(self.shared_memory().0),
            SHM_LEN_HIGH => high(self.shared_memory().0),
            SHM_BASE_LOW => low(self.shared_memory().1),
            SHM_BASE_HIGH => high(self.shared_memory().1),
            QUEUE_RESET => self.selected().is_some_and(|q| q.resetting).into(),
            CONFIG_GENERATION => self.core.config_generation(),
            _ => 0,
        }
    }

    pub(super) fn write_register(&self, offset: u64, value: u32) {
        let Selectors { device_features, driver_features, queue, shared_memory } = &self.selectors;
        match offset {
            DEVICE_FEATURES_SEL => device_features.store(value, Ordering::Relaxed),
            DRIVER_FEATURES_SEL => driver_features.store(value, Ordering::Relaxed),
            QUEUE_SEL => queue.store(value, Ordering::Relaxed),
            SHM_SEL => shared_memory.store(value, Ordering::Relaxed),
            DRIVER_FEATURES => match driver_features.load(Ordering::Relaxed) {
                0 => self.core.set_driver_features(false, value),
                1 => self.core.set_driver_features(true, value),
                _ => {}
            },
            QUEUE_NOTIFY => {
                if let Ok(queue) = u16::try_from(value) {
                    self.core.notify(queue);
                }
            }
            INTERRUPT_ACK => self.line.acknowledge(value),
            STATUS => self.write_status(value),
            QUEUE_READY => match value {
                0 => self.with_selected(|q| self.core.reset_queue(q)),
                1 => self.with_selected(|q| self.core.enable_queue(q)),
                _ => {}
            },
            QUEUE_RESET if value == 1 => self.with_selected(|q| {
                if self.core.may_reset_queues() {
                    self.core.reset_queue(q);
                }
            }),
            // A size that does not fit is none that a queue can have: it is refused when the queue starts.
            QUEUE_SIZE => self.set_up(|q| q.size = u16::try_from(value).unwrap_or(0)),
            QUEUE_DESC_LOW => self.set_up(|q| set_low(&mut q.descriptors, value)),
            QUEUE_DESC_HIGH => self.set_up(|q| set_high(&mut q.descriptors, value)),
            QUEUE_DRIVER_LOW => self.set_up(|q| set_low(&mut q.available, value)),
            QUEUE_DRIVER_HIGH => self.set_up(|q| set_high(&mut q.available, value)),
            QUEUE_DEVICE_LOW => self.set_up(|q| set_low(&mut q.used, value)),
            QUEUE_DEVICE_HIGH => self.set_up(|q| set_high(&mut q.used, value)),
            _ => {}
        }
    }

    /// The register is one byte; a driver that writes more wants what there is not.
    fn write_status(&self, value: u32) {
        if let Ok(value) = u8::try_from(value) {
            self.core.set_status(value);
            if value == 0 && self.core.status() == 0 {
                self.line.reset();
            }
        }
    }

    fn selected(&self) -> Option<QueueRegisters> {
        let queue = self.selectors.queue.load(Ordering::Relaxed);
        u16::try_from(queue).ok().and_then(|q| self.core.queue(q))
    }

    fn with_selected(&self, f: impl FnOnce(u16)) {
        if let Ok(queue) = u16::try_from(self.selectors.queue.load(Ordering::Relaxed)) {
            f(queue);
        }
    }

    fn set_up(&self, change: impl FnOnce(&mut QueueRegisters)) {
        self.with_selected(|queue| self.core.set_queue(queue, change));
    }

    /// Length and base of the selected region; all ones for one that does not exist (4.2.2).
    fn shared_memory(&self) -> (u64, u64) {
        let id = self.selectors.shared_memory.load(Ordering::Relaxed);
        let region = self.core.description().shared_memory.iter().find(|r| u32::from(r.id) == id);
        let base = self.config.shared_memory.iter().find(|(i, _)| u32::from(*i) == id);
        region.zip(base).map_or((u64::MAX, u64::MAX), |(region, (_, base))| (region.len, *base))
    }
}
