//! virtio over MMIO (4.2), version 2: decodes registers into calls of the core, and knows nothing else.
mod aml;
mod interrupt;
mod registers;
mod state;

pub use state::MmioState;

use crate::{BuildError, Host, Notification, VirtioCore, VirtioDevice};
use drystone_bus::{BusDevice, Effect, Interrupt};
use drystone_memory::Mem;
use drystone_state::{Component, ComponentError, PersistDyn};
use interrupt::Line;
use registers::Selectors;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Where a device is, as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MmioConfig {
    /// Guest-physical address of the register block, which is [`Mmio::LEN`] bytes long and lies below 4 GiB.
    pub base: u32,
    /// Global system interrupt that the interrupt line is wired to.
    pub gsi: u32,
    /// Which of the machine's virtio-mmio devices it is: its ACPI `_UID`, below 4096.
    pub index: u16,
    /// Guest-physical addresses of the device's shared memory regions (2.10), by their id. A region without one is not
    /// shown to the driver.
    #[serde(default)]
    pub shared_memory: Vec<(u8, u64)>,
}

/// A virtio device behind a block of memory-mapped registers.
///
/// [`read`](Self::read) and [`write`](Self::write) take any access a guest can make. The registers below 0x100 are 32
/// bits wide and take only aligned accesses of that width (4.2.2.2); others read as zeros and write nothing, as do
/// registers that do not exist. The configuration space, from 0x100 on, takes any access.
pub struct Mmio<M: Mem> {
    config: MmioConfig,
    core: Arc<VirtioCore<M>>,
    line: Arc<Line>,
    selectors: Selectors,
}

impl<M: Mem> Mmio<M> {
    /// The length of the register block in bytes.
    pub const LEN: u64 = 0x1000;
    /// Offset of the QueueNotify register.
    pub const QUEUE_NOTIFY: u64 = registers::QUEUE_NOTIFY;

    /// Puts `device` behind registers. `interrupt` is an edge.
    ///
    /// # Errors
    /// [`BuildError`] for a device that contradicts itself.
    pub fn new(
        config: MmioConfig,
        device: Box<dyn VirtioDevice<M>>,
        memory: M,
        interrupt: Arc<dyn Interrupt>,
        host: Host,
    ) -> Result<Self, BuildError> {
        let line = Arc::new(Line::new(interrupt));
        let core = Arc::new(VirtioCore::new(device, memory, line.clone(), host)?);
        Ok(Self { config, core, line, selectors: Selectors::default() })
    }

    /// The device behind the registers, for event loops.
    pub fn core(&self) -> &Arc<VirtioCore<M>> {
        &self.core
    }

    /// Where it was put.
    pub fn config(&self) -> &MmioConfig {
        &self.config
    }

    /// The driver's notifications, for a hypervisor that can turn them into events.
    pub fn notifications(&self) -> impl Iterator<Item = Notification> + '_ {
        let all = self.core.description().queue_sizes.iter();
        (0..).zip(all).map(|(queue, _)| Notification {
            queue,
            offset: Self::QUEUE_NOTIFY,
            width: 4,
            datamatch: Some(queue.into()),
        })
    }

    /// The guest reads from `offset` on; all of `data` is filled.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(registers::CONFIG) {
            self.core.config_read(offset, data);
        } else if offset.is_multiple_of(4) && data.len() == 4 {
            data.copy_from_slice(&self.read_register(offset).to_le_bytes());
        }
    }

    /// The guest writes from `offset` on. May block for the core's patience, when it resets a device or a queue.
    pub fn write(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(registers::CONFIG) {
            self.core.config_write(offset, data);
        } else if let (Ok(bytes), true) = (<[u8; 4]>::try_from(data), offset.is_multiple_of(4)) {
            self.write_register(offset, u32::from_le_bytes(bytes));
        }
    }
}

impl<M: Mem> BusDevice for Mmio<M> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.read(offset, data);
    }
    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        self.write(offset, data);
        Effect::None
    }
}

impl<M: Mem> Component for Mmio<M> {
    fn pause(&self) -> Result<(), ComponentError> {
        Component::pause(&*self.core)
    }
    fn resume(&self) -> Result<(), ComponentError> {
        Component::resume(&*self.core)?;
        self.line.repeat();
        Ok(())
    }
    fn reset(&self) -> Result<(), ComponentError> {
        let Self { config: _, core, line, selectors } = self;
        Component::reset(&**core)?;
        line.reset();
        selectors.reset();
        Ok(())
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        self.core.persist().map(|_| self as &dyn PersistDyn)
    }
}
