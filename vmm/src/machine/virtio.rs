mod image;
mod mmio;
mod pci;
mod vector;
mod wires;

use super::MachineError;
use super::groups::Groups;
use super::handles::{DeviceHandle, Handles};
use super::pci::Pci;
use super::shown::Shown;
use super::slots::SavedSlots;
use crate::config::{Config, DiskConfig, Transport};
use crate::monitor::Handle;
use acpi_tables::Aml;
use drystone_block::{Block, OnIoError};
use drystone_bus::{Bus, Clock, SystemClock};
use drystone_hypervisor::Vm;
use drystone_lifecycle::{Cause, Orchestrator, Stage};
use drystone_limit::LimitGroup;
use drystone_memory::RamView;
use drystone_observe::{Log, Quota, Registry, Throttle};
use drystone_rng::{Rng, RngConfig};
use drystone_runner::{Attachment, Doorbells, Runner};
use drystone_state::Component;
use drystone_virtio::{Event, Host, Observer, VirtioCore, VirtioDevice};
use mmio::OnMmio;
use std::num::NonZeroUsize;
use std::sync::Arc;

pub(crate) use mmio::MAX_MMIO_DEVICES;

type Memory = RamView;
type OnPci = drystone_virtio::Pci<Memory>;

/// What the orchestrator calls the threads.
const RUNNER: &str = "runner";

/// The machine's virtio devices, and the threads that run them.
pub(super) struct Virtio {
    slots: Vec<Slot>,
    handles: Handles,
    groups: Groups,
    runner: Option<Runner>,
    parts: Parts,
}

/// A device.
struct Slot {
    name: String,
    /// Dropped first, so that no worker runs when the device goes.
    attachment: Attachment,
    place: Place,
    /// What its image keeps in memory, if it keeps something there.
    kept: Option<Arc<dyn Component>>,
}

enum Place {
    Mmio(OnMmio),
    /// With the slot that it is in.
    Pci(Arc<OnPci>, u8),
}

impl Place {
    fn core(&self) -> &Arc<VirtioCore<Memory>> {
        match self {
            Self::Mmio(on) => on.device.core(),
            Self::Pci(function, _) => function.core(),
        }
    }

    fn component(&self) -> Arc<dyn Component> {
        match self {
            Self::Mmio(on) => on.device.clone(),
            Self::Pci(function, _) => function.clone(),
        }
    }
}

/// What devices are made with, when the machine is made and while it runs.
pub(super) struct Parts {
    pub(super) vm: Arc<dyn Vm>,
    pub(super) bus: Arc<Bus>,
    pub(super) pci: Arc<Pci>,
    pub(super) memory: Memory,
    pub(super) handle: Handle,
    pub(super) log: Log,
    pub(super) registry: Registry,
}

/// A device that is to be added.
struct New {
    name: String,
    device: Box<dyn VirtioDevice<Memory>>,
    handle: DeviceHandle,
    transport: Transport,
    kept: Option<Arc<dyn Component>>,
}

impl Virtio {
    /// Makes all that `config` names, and puts them where the guest finds them when it starts: into the lowest free slots, or
    /// into those of `saved`.
    pub(super) fn new(
        config: &Config,
        parts: Parts,
        saved: Option<&SavedSlots>,
    ) -> Result<Self, MachineError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let groups = Groups::new(&config.limit_group, &clock)?;
        let handles = Handles::new(groups.clone());
        let mut virtio = Self { slots: Vec::new(), handles, groups, runner: None, parts };
        for (index, disk) in config.disk.iter().enumerate() {
            let pulled = saved.is_some_and(|saved| saved.was_pulled(&block_name(&disk.name(index))));
            let new = virtio.disk(disk, index, config.transport, pulled)?;
            virtio.add(new, saved)?;
        }
        if config.rng {
            let (device, handle) = Rng::open(&RngConfig::default(), Arc::new(SystemClock::new()))?;
            let (name, transport, handle) = (RNG.into(), config.transport, DeviceHandle::Rng(handle));
            virtio.add(New { name, device: Box::new(device), handle, transport, kept: None }, saved)?;
        }
        Ok(virtio)
    }

    fn disk(
        &self,
        disk: &DiskConfig,
        index: usize,
        transport: Transport,
        pulled: bool,
    ) -> Result<New, MachineError> {
        let what = |what| MachineError::Disk { name: disk.name(index), what };
        let block = disk.block(index).map_err(what)?;
        let group = match &disk.limit_group {
            None => None,
            Some(name) => Some(
                self.groups
                    .get(name)
                    .cloned()
                    .ok_or_else(|| what(format!("there is no limit group `{name}`")))?,
            ),
        };
        let host = host(&self.parts.handle, group);
        let (device, handle) = if pulled {
            Block::pulled(&block, host)?
        } else {
            image::open(disk, &block, host, &self.parts.log)?
        };
        Ok(New {
            name: block_name(&block.id),
            device: Box::new(device),
            kept: image::kept(disk, &handle, &self.parts.log),
            handle: DeviceHandle::Disk(handle),
            transport: disk.transport.unwrap_or(transport),
        })
    }

    /// Puts a device where the guest finds it when it starts.
    fn add(&mut self, new: New, saved: Option<&SavedSlots>) -> Result<(), MachineError> {
        let mut made = self.make(new)?;
        if let Place::Pci(function, slot) = &mut made.place {
            let (segment, function) = (self.parts.pci.segment(), function.clone());
            *slot = match saved {
                Some(saved) => {
                    let slot = saved.of(&made.name)?;
                    segment.add_saved(slot, function)?;
                    slot
                }
                None => segment.add(None, function)?,
            };
        }
        self.slots.push(made);
        Ok(())
    }

    /// Makes a device that runs as soon as a driver asks it to.
    fn make(&mut self, new: New) -> Result<Slot, MachineError> {
        let New { name, device, handle, transport, kept } = new;
        let queues = device.describe().queue_sizes.len();
        let doorbells = Arc::new(Doorbells::new(queues).map_err(MachineError::DeviceEvent)?);
        let throttle = || Throttle::new(self.parts.log.named(&name), Quota::default());
        let host = Host { observer: Arc::new(Reporter(throttle())), ..Host::new(doorbells.clone()) };
        let place = match transport {
            Transport::Mmio => {
                let before = self.slots.iter().filter(|slot| matches!(slot.place, Place::Mmio(_))).count();
                Place::Mmio(mmio::add(&self.parts, before, device, &doorbells, host)?)
            }
            Transport::Pci => {
                let function = pci::function(&self.parts, device, &doorbells, host, throttle())?;
                Place::Pci(Arc::new(function), 0)
            }
        };
        let attachment = self.runner()?.attach(place.core(), &doorbells)?;
        let shown = Shown { handle: handle.clone(), core: place.core().clone() };
        self.parts.registry.add(&name, Arc::new(shown))?;
        self.handles.add(&name, handle);
        Ok(Slot { name, attachment, place, kept })
    }

    /// One thread for all, until somebody shows that more are faster.
    fn runner(&mut self) -> Result<Runner, MachineError> {
        let runner = match self.runner.take() {
            Some(runner) => runner,
            None => Runner::idle("virtio", NonZeroUsize::MIN)?,
        };
        self.runner = Some(runner.clone());
        Ok(runner)
    }

    /// Begins to serve them.
    pub(super) fn start(&self) -> Result<(), MachineError> {
        Ok(self.runner.as_ref().map_or(Ok(()), Runner::start)?)
    }

    /// Hands them to the orchestrator: after the vCPUs, before the interrupt controllers.
    pub(super) fn register(&self, orchestrator: &mut Orchestrator) -> Result<(), MachineError> {
        for Slot { name, place, kept, .. } in &self.slots {
            orchestrator.add(Stage::Devices, name.clone(), place.component())?;
            if let Some(kept) = kept {
                orchestrator.add(Stage::Backends, image_name(name), kept.clone())?;
            }
        }
        if let Some(runner) = &self.runner {
            orchestrator.add(Stage::Backends, RUNNER, Arc::new(runner.clone()))?;
        }
        self.groups.register(&self.parts.registry, orchestrator)
    }

    /// What can be set on them while the machine runs.
    pub(super) fn handles(&self) -> Handles {
        self.handles.clone()
    }

    /// What the guest finds those by that are not on PCI.
    pub(super) fn aml(&self) -> Vec<Arc<dyn Aml + Send + Sync>> {
        let mmio = |slot: &Slot| match &slot.place {
            Place::Mmio(on) => Some(on.device.clone() as Arc<dyn Aml + Send + Sync>),
            Place::Pci(..) => None,
        };
        self.slots.iter().filter_map(mmio).collect()
    }
}

impl Virtio {
    /// Adds a disk while the guest runs, and tells it. Gives its name and its slot.
    ///
    /// # Errors
    /// [`MachineError`]; nothing is left behind.
    pub(super) fn plug_disk(
        &mut self,
        disk: &DiskConfig,
        orchestrator: &mut Orchestrator,
    ) -> Result<(String, u8), MachineError> {
        let taken = |index: &usize| self.position(&disk.name(*index)).is_some();
        let free = if disk.id.is_some() { None } else { (0..).find(|index| !taken(index)) };
        let index = free.unwrap_or(0);
        let name = disk.name(index);
        if taken(&index) {
            let pulled = self.handles.is_pulled(&name);
            let which = if pulled { ", which was pulled and which the guest has not let go of" } else { "" };
            return Err(MachineError::Disk { name, what: format!("there is a disk of that name{which}") });
        }
        if disk.transport == Some(Transport::Mmio) {
            return Err(MachineError::ColdTransport(name));
        }
        let had_runner = self.runner.is_some();
        self.runner()?.start()?;
        let new = self.disk(disk, index, Transport::Pci, false)?;
        let component = new.name.clone();
        let made = self.make(new)?;
        let plugged = self.plug(made, orchestrator);
        match plugged {
            Ok(slot) => {
                if let Some(runner) = self.runner.as_ref().filter(|_| !had_runner) {
                    orchestrator.add(Stage::Backends, RUNNER, Arc::new(runner.clone()))?;
                }
                Ok((name, slot))
            }
            Err(error) => {
                self.parts.registry.remove(&component);
                self.handles.remove(&component);
                Err(error)
            }
        }
    }

    fn plug(&mut self, mut made: Slot, orchestrator: &mut Orchestrator) -> Result<u8, MachineError> {
        let Place::Pci(function, slot) = &mut made.place else {
            return Err(MachineError::ColdTransport(made.name));
        };
        orchestrator.add(Stage::Devices, made.name.clone(), function.clone())?;
        if let Some(kept) = &made.kept {
            orchestrator.add(Stage::Backends, image_name(&made.name), kept.clone())?;
        }
        match self.parts.pci.hot_plug().plug(None, function.clone()) {
            Ok(number) => {
                *slot = number;
                self.slots.push(made);
                Ok(number)
            }
            Err(error) => {
                orchestrator.remove(&made.name);
                orchestrator.remove(&image_name(&made.name));
                Err(error.into())
            }
        }
    }

    /// The PCI slot of a disk; `None` if there is no such disk, and within that if it is not on PCI.
    pub(super) fn slot_of_disk(&self, name: &str) -> Option<Option<u8>> {
        let slot = self.position(name).and_then(|at| self.slots.get(at))?;
        Some(match slot.place {
            Place::Pci(_, number) => Some(number),
            Place::Mmio(_) => None,
        })
    }

    /// Forgets the device that was in a PCI slot and is off the bus: nothing of it runs any more, and what it held of the
    /// host is free. Gives its name.
    pub(super) fn unplugged(&mut self, slot: u8, orchestrator: &mut Orchestrator) -> Option<String> {
        let at = self.at(slot)?;
        let Slot { name, attachment, place, kept } = self.slots.remove(at);
        orchestrator.remove(&name);
        orchestrator.remove(&image_name(&name));
        drop(kept);
        self.parts.registry.remove(&name);
        self.handles.remove(&name);
        drop(attachment);
        // It may have work in flight, and a stuck back end is reported by the core.
        let _ = place.core().reset();
        if self.slots.is_empty() {
            // A machine that is made without devices has no threads for them either.
            orchestrator.remove(RUNNER);
            self.runner = None;
        }
        Some(own_name(&name))
    }

    /// Which device is in which slot.
    pub(super) fn slots(&self) -> SavedSlots {
        let mut saved = SavedSlots::default();
        for Slot { name, place, .. } in &self.slots {
            if let Place::Pci(_, number) = place {
                saved.insert(name.clone(), *number, self.handles.is_pulled(&own_name(name)));
            }
        }
        saved
    }

    /// The name of the device in a PCI slot.
    pub(super) fn name_of(&self, slot: u8) -> Option<String> {
        self.slots.get(self.at(slot)?).map(|slot| own_name(&slot.name))
    }

    fn at(&self, slot: u8) -> Option<usize> {
        self.slots.iter().position(|s| matches!(s.place, Place::Pci(_, number) if number == slot))
    }

    fn position(&self, disk: &str) -> Option<usize> {
        let name = block_name(disk);
        self.slots.iter().position(|slot| slot.name == name)
    }
}

/// What a disk's name begins with among the machine's parts.
const BLOCK: &str = "block.";

/// The entropy device's name among the machine's parts.
pub(super) const RNG: &str = "rng";

pub(super) fn block_name(id: &str) -> String {
    format!("{BLOCK}{id}")
}

/// What is called so that its image keeps in memory.
fn image_name(name: &str) -> String {
    format!("image.{}", own_name(name))
}

fn own_name(name: &str) -> String {
    name.strip_prefix(BLOCK).unwrap_or(name).to_owned()
}

fn host(handle: &Handle, group: Option<LimitGroup>) -> drystone_block::Host {
    let handle = handle.clone();
    drystone_block::Host {
        group,
        clock: Arc::new(SystemClock::new()),
        on_failure: Arc::new(move |failure| {
            let cause = Cause::Fault(failure.to_string());
            match failure.policy {
                OnIoError::Pause => handle.pause(cause),
                _ => handle.end(cause),
            }
        }),
    }
}

/// Puts a device's events into the log, a few a minute.
struct Reporter(Throttle);

impl Observer for Reporter {
    fn event(&self, event: &Event<'_>) {
        self.0.warn(event);
    }
}
