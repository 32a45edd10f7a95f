//! virtio over PCI (4.1), the modern interface alone: decodes configuration space and BARs into calls of the core, and knows
//! nothing else.
mod capabilities;
mod common;
mod identity;
mod layout;
mod signals;
mod state;
mod window;
mod wiring;

pub use state::PciState;
pub use wiring::{Unwired, Wiring};

use crate::{BuildError, Host, Notification, VirtioCore, VirtioDevice};
use common::Common;
use drystone_bus::Effect;
use drystone_memory::Mem;
use drystone_pci::{BarError, CapabilityError, Config, Function, MsixError, Vector};
use drystone_state::{Component, ComponentError, PersistDyn};
use layout::{Layout, Place, SharedPlace};
use signals::Signals;
use std::sync::Arc;
use window::Window;

const BAR: usize = 0;
const SHARED_MEMORY_BAR: usize = 2;
/// The most vectors that a function can have.
const MAX_VECTORS: usize = 2048;

/// Why a device cannot be on PCI.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PciError {
    /// It contradicts itself.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// There is no PCI device ID for it: they end with type 63 (4.1.2).
    #[error("virtio device type {0}: PCI has device IDs for types 1 to 63")]
    Type(u32),
    /// Its registers, or its shared memory, are more than a BAR can have.
    #[error("virtio device type {0}: its registers or its shared memory do not fit into a BAR")]
    Size(u32),
    /// It has no place for its registers.
    #[error(transparent)]
    Bar(#[from] BarError),
    /// It has more shared memory regions than configuration space has room for.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// It was given no vectors, or too many.
    #[error(transparent)]
    Msix(#[from] MsixError),
}

/// A virtio device as a PCI function, for any PCI bus: see [`Function`].
///
/// [`Function::config_read`], [`drystone_pci::read_bar`] and their counterparts for writes take any access a guest can make.
/// The common configuration structure takes accesses of a field's own width, and of either half of a field of 64 bits
/// (4.1.3.1); others read as zeros and write nothing. The device's configuration space takes any access.
///
/// Interrupts are MSI-X messages, with a vector for each queue and one for configuration changes; there is no interrupt pin.
/// A driver that uses no MSI-X reads the ISR status.
pub struct Pci<M: Mem> {
    core: Arc<VirtioCore<M>>,
    signals: Arc<Signals>,
    layout: Layout,
    shared: Vec<SharedPlace>,
    common: Common,
    window: Window,
    wiring: Arc<dyn Wiring>,
}

impl<M: Mem> Pci<M> {
    /// The BAR with the registers, the doorbells and the MSI-X structures.
    pub const BAR: usize = BAR;
    /// The BAR with shared memory regions, of a device that has some.
    pub const SHARED_MEMORY_BAR: usize = SHARED_MEMORY_BAR;

    /// How many vectors a device with `queues` queues is given, so that each can have one and there is one for configuration
    /// changes. With fewer, drivers let queues share them.
    pub fn vectors(queues: usize) -> usize {
        queues.saturating_add(1).min(MAX_VECTORS)
    }

    /// Makes a function of `device`, to be put into a slot. Its registers are at no address before the slot's owner places
    /// them. `vectors` is where the driver's MSI-X messages go out, 1 to 2048; `wiring` hears where the guest puts doorbells
    /// and shared memory.
    ///
    /// # Errors
    /// [`PciError`] for a device that contradicts itself, or has no place on PCI.
    pub fn new(
        device: Box<dyn VirtioDevice<M>>,
        memory: M,
        vectors: Vec<Arc<dyn Vector>>,
        wiring: Arc<dyn Wiring>,
        host: Host,
    ) -> Result<Self, PciError> {
        let description = device.describe();
        let device_type = description.device_type;
        let too_large = || PciError::Size(device_type);
        let layout = Layout::new(&description, vectors.len()).ok_or_else(too_large)?;
        let shared = layout::shared_memory(&description.shared_memory).ok_or_else(too_large)?;
        let built = capabilities::build(device_type, &layout, &shared, vectors)?;
        let config = Config::with_msix(built.space, built.msix);
        let signals = Arc::new(Signals::new(config, description.queue_sizes.len()));
        let core = Arc::new(VirtioCore::new(device, memory, signals.clone(), host)?);
        let (common, window) = (Common::default(), built.window);
        Ok(Self { core, signals, layout, shared, common, window, wiring })
    }

    /// The device behind the registers, for event loops.
    pub fn core(&self) -> &Arc<VirtioCore<M>> {
        &self.core
    }

    /// The driver's notifications, at offsets in [`BAR`](Self::BAR): each queue has a place of its own, so that a hypervisor
    /// need not look at the value that is written.
    pub fn notifications(&self) -> impl Iterator<Item = Notification> + '_ {
        self.layout.doorbells().map(|(queue, offset)| Notification {
            queue,
            offset,
            width: 0,
            datamatch: None,
        })
    }

    fn registers_read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match self.layout.find(offset) {
            Some(Place::Common(at)) => self.common_read(at, data),
            Some(Place::Isr) => data.iter_mut().take(1).for_each(|byte| *byte = self.signals.take_isr()),
            Some(Place::Device(at)) => self.core.config_read(at, data),
            Some(Place::Doorbell(_)) | None => {}
        }
    }

    /// May block for the core's patience, when it resets the device or a queue.
    fn registers_write(&self, offset: u64, data: &[u8]) {
        match self.layout.find(offset) {
            Some(Place::Common(at)) => self.common_write(at, data),
            Some(Place::Device(at)) => self.core.config_write(at, data),
            // The place says which queue it is; the value says it again.
            Some(Place::Doorbell(queue)) if !data.is_empty() => self.core.notify(queue),
            Some(Place::Doorbell(_) | Place::Isr) | None => {}
        }
    }
}

impl<M: Mem> Function for Pci<M> {
    fn config(&self) -> &Config {
        &self.signals.config
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.window.before_read(offset, data.len(), self);
        self.signals.config.read(offset, data);
        self.signals.show_status(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) -> Effect {
        let effect = self.signals.config.write(offset, data);
        self.window.after_write(offset, data.len(), self);
        effect
    }

    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]) {
        if bar == BAR {
            self.registers_read(offset, data);
        }
    }

    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]) -> Effect {
        if bar == BAR {
            self.registers_write(offset, data);
        }
        Effect::None
    }

    fn bar_moved(&self, bar: usize, base: Option<u64>) {
        let at = |offset: u64| base.and_then(|base| base.checked_add(offset));
        if bar == BAR {
            let doorbells = self.layout.doorbells().filter_map(|(queue, offset)| Some((queue, at(offset)?)));
            self.wiring.doorbells(&doorbells.collect::<Vec<_>>());
        } else if bar == SHARED_MEMORY_BAR {
            self.shared.iter().for_each(|region| self.wiring.shared_memory(region.id, at(region.offset)));
        }
    }
}

impl<M: Mem> Component for Pci<M> {
    fn pause(&self) -> Result<(), ComponentError> {
        Component::pause(&*self.core)
    }
    fn resume(&self) -> Result<(), ComponentError> {
        Component::resume(&*self.core)?;
        self.signals.repeat();
        Ok(())
    }
    fn reset(&self) -> Result<(), ComponentError> {
        let Self { core, signals, layout: _, shared: _, common, window: _, wiring: _ } = self;
        Component::reset(&**core)?;
        signals.reset();
        common.reset();
        Ok(())
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        self.core.persist().map(|_| self as &dyn PersistDyn)
    }
}
