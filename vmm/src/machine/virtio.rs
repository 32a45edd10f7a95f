mod image;
mod mmio;
mod pci;
mod vector;
mod wires;

use super::groups::Groups;
use super::handles::{DeviceHandle, Handles};
use super::network;
use super::pci::Pci;
use super::shown::Shown;
use super::slots::SavedSlots;
use super::{DeviceId, MachineError};
use crate::config::{Config, DiskConfig, NetConfig, Transport};
use crate::monitor::Handle;
use acpi_tables::Aml;
use drystone_block::{Block, OnIoError};
use drystone_bus::{Bus, Clock, SystemClock};
use drystone_hypervisor::Vm;
use drystone_lifecycle::{Cause, Orchestrator, Stage};
use drystone_limit::LimitGroup;
use drystone_memory::RamView;
use drystone_net::Mac;
use drystone_observe::{Log, Quota, Registry, Throttle};
use drystone_rng::{Rng, RngConfig};
use drystone_runner::{Attachment, Doorbells, Runner};
use drystone_state::Component;
use drystone_virtio::{Event, Host, Observer, VirtioCore, VirtioDevice};
use mmio::OnMmio;
use rustix::thread::sched_getaffinity;
use std::num::NonZeroUsize;
use std::sync::Arc;

pub(crate) use mmio::MAX_MMIO_DEVICES;

pub(super) type Memory = RamView;
type OnPci = drystone_virtio::Pci<Memory>;

/// What the orchestrator calls the threads.
const RUNNER: &str = "runner";

/// The machine's virtio devices, and the threads that run them.
pub(super) struct Virtio {
    slots: Vec<Slot>,
    handles: Handles,
    groups: Groups,
    runner: Option<Runner>,
    vcpus: usize,
    parts: Parts,
}

/// A device.
struct Slot {
    name: String,
    /// Dropped first, so that no worker runs when the device goes.
    attachment: Attachment,
    place: Place,
    /// How many lanes it has that may keep a thread busy.
    busy: usize,
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
        let vcpus = config.cpus.topology()?.vcpus() as usize;
        let mut virtio = Self { slots: Vec::new(), handles, groups, runner: None, vcpus, parts };
        let was_pulled = |device: &DeviceId| saved.is_some_and(|saved| saved.was_pulled(&device.part()));
        for (index, disk) in config.disk.iter().enumerate() {
            let pulled = was_pulled(&DeviceId::Disk(disk.name(index)));
            let new = virtio.disk(disk, index, config.transport, pulled)?;
            virtio.add(new, saved)?;
        }
        let machine = config.id.as_deref().unwrap_or_default();
        for (index, net) in config.net.iter().enumerate() {
            let pulled = was_pulled(&DeviceId::Net(net.name(index)));
            let new = net_device(net, index, machine, config.transport, pulled, &virtio.parts.log)?;
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
            name: DeviceId::Disk(block.id.clone()).part(),
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
        let runner = self.runner()?;
        let busy = if matches!(handle, DeviceHandle::Rng(_)) { 0 } else { working(place.core()) };
        runner.grow(self.threads(busy))?;
        let attachment = runner.attach(place.core(), &doorbells)?;
        let shown = Shown { handle: handle.clone(), core: place.core().clone() };
        self.parts.registry.add(&name, Arc::new(shown))?;
        self.handles.add(&name, handle);
        Ok(Slot { name, attachment, place, busy, kept })
    }

    /// The threads for all devices.
    fn runner(&mut self) -> Result<Runner, MachineError> {
        let runner = match self.runner.take() {
            Some(runner) => runner,
            None => Runner::idle("virtio", NonZeroUsize::MIN)?,
        };
        self.runner = Some(runner.clone());
        Ok(runner)
    }

    /// A thread for each queue that may be busy, with those `more`, but no more than there are vCPUs to keep them so, and
    /// processors for them.
    fn threads(&self, more: usize) -> NonZeroUsize {
        let busy = self.slots.iter().map(|slot| slot.busy).sum::<usize>() + more;
        let threads = busy.min(self.vcpus);
        let most = if threads > 1 { processors() } else { threads };
        NonZeroUsize::new(threads.min(most)).unwrap_or(NonZeroUsize::MIN)
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
        let name = |index| DeviceId::Disk(disk.name(index));
        let (index, device) = self.free_name(disk.id.is_some(), name, disk.transport)?;
        let new = self.disk(disk, index, Transport::Pci, false)?;
        Ok((device.name().into(), self.plug_new(new, orchestrator)?))
    }

    /// Adds a network device to a machine of that name while the guest runs, and tells it. Gives its name, its address and its slot.
    ///
    /// # Errors
    /// As [`plug_disk`](Self::plug_disk).
    pub(super) fn plug_net(
        &mut self,
        net: &NetConfig,
        machine: &str,
        orchestrator: &mut Orchestrator,
    ) -> Result<(String, Mac, u8), MachineError> {
        let name = |index| DeviceId::Net(net.name(index));
        let (index, device) = self.free_name(net.id.is_some(), name, net.transport)?;
        let new = net_device(net, index, machine, Transport::Pci, false, &self.parts.log)?;
        let slot = self.plug_new(new, orchestrator)?;
        Ok((device.name().into(), net.address(index, machine), slot))
    }

    /// The place among its kind by which a new device has a name that is free, and that name.
    fn free_name(
        &self,
        given: bool,
        name: impl Fn(usize) -> DeviceId,
        transport: Option<Transport>,
    ) -> Result<(usize, DeviceId), MachineError> {
        let taken = |index: &usize| self.position(&name(*index)).is_some();
        let index = if given { 0 } else { (0..).find(|index| !taken(index)).unwrap_or(0) };
        let device = name(index);
        if taken(&index) {
            let pulled = self.handles.is_pulled(&device);
            return Err(MachineError::Taken(device, pulled));
        }
        if transport == Some(Transport::Mmio) {
            return Err(MachineError::ColdTransport(device));
        }
        Ok((index, device))
    }

    fn plug_new(&mut self, new: New, orchestrator: &mut Orchestrator) -> Result<u8, MachineError> {
        let had_runner = self.runner.is_some();
        self.runner()?.start()?;
        let component = new.name.clone();
        let made = self.make(new)?;
        match self.plug(made, orchestrator) {
            Ok(slot) => {
                if let Some(runner) = self.runner.as_ref().filter(|_| !had_runner) {
                    orchestrator.add(Stage::Backends, RUNNER, Arc::new(runner.clone()))?;
                }
                Ok(slot)
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
            // Nobody asks for that: its name was refused with it.
            return Err(MachineError::ColdTransport(DeviceId::Disk(made.name)));
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

    /// The PCI slot of a device; `None` if there is no such device, and within that if it is not on PCI.
    pub(super) fn slot_of(&self, device: &DeviceId) -> Option<Option<u8>> {
        let slot = self.position(device).and_then(|at| self.slots.get(at))?;
        Some(match slot.place {
            Place::Pci(_, number) => Some(number),
            Place::Mmio(_) => None,
        })
    }

    /// Forgets the device that was in a PCI slot and is off the bus: nothing of it runs any more, and what it held of the
    /// host is free.
    pub(super) fn unplugged(&mut self, slot: u8, orchestrator: &mut Orchestrator) -> Option<DeviceId> {
        let at = self.at(slot)?;
        let Slot { name, attachment, place, busy: _, kept } = self.slots.remove(at);
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
        DeviceId::of_part(&name)
    }

    /// Which device is in which slot.
    pub(super) fn slots(&self) -> SavedSlots {
        let mut saved = SavedSlots::default();
        for Slot { name, place, .. } in &self.slots {
            if let Place::Pci(_, number) = place {
                saved.insert(
                    name.clone(),
                    *number,
                    DeviceId::of_part(name).is_some_and(|device| self.handles.is_pulled(&device)),
                );
            }
        }
        saved
    }

    /// The device in a PCI slot.
    pub(super) fn in_slot(&self, slot: u8) -> Option<DeviceId> {
        self.slots.get(self.at(slot)?).and_then(|slot| DeviceId::of_part(&slot.name))
    }

    fn at(&self, slot: u8) -> Option<usize> {
        self.slots.iter().position(|s| matches!(s.place, Place::Pci(_, number) if number == slot))
    }

    fn position(&self, device: &DeviceId) -> Option<usize> {
        let name = device.part();
        self.slots.iter().position(|slot| slot.name == name)
    }
}

/// How many lanes of a device have work of their own.
fn working(core: &VirtioCore<Memory>) -> usize {
    (0..core.lanes()).filter(|lane| core.lane(*lane).is_some_and(|lane| !lane.queues.is_empty())).count()
}

/// How many processors this program may use. Asked of the kernel alone: what groups of processes may have besides is a share of time.
fn processors() -> usize {
    sched_getaffinity(None).map_or(1, |cpus| cpus.count() as usize)
}

/// The entropy device's name among the machine's parts.
pub(super) const RNG: &str = "rng";

/// What is called so that its image keeps in memory.
fn image_name(part: &str) -> String {
    let device = DeviceId::of_part(part);
    format!("image.{}", device.as_ref().map_or(part, DeviceId::name))
}

/// A network device of a machine of that name.
fn net_device(
    net: &NetConfig,
    index: usize,
    machine: &str,
    transport: Transport,
    pulled: bool,
    log: &Log,
) -> Result<New, MachineError> {
    let made = network::make(net, index, machine, pulled)?;
    let part = DeviceId::Net(net.name(index)).part();
    for message in made.network.messages() {
        log.named(&part).warn(message);
    }
    Ok(New {
        name: part,
        device: Box::new(made.device),
        handle: DeviceHandle::Net(made.handle, made.network),
        transport: net.transport.unwrap_or(transport),
        kept: None,
    })
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
