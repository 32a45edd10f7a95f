//! A machine, assembled from a configuration: the only place that knows all the parts.

mod board;
mod controls;
mod cpu;
mod cpuid;
mod device_id;
mod devices;
mod groups;
mod handles;
mod image;
mod network;
mod payload;
mod pci;
mod plug;
mod save;
mod shown;
mod slots;
mod virtio;

use crate::config::{Config, ConfigError, CpusError, PanicPolicy, Policy, ShutdownSignal};
use crate::events::Journal;
use crate::monitor::Handle;
use crate::snapshot::Restore;
use board::Board;
use cpu::Cpus;
use drystone_hypervisor::{Guard, Hypervisor, MapOptions, Vm, VmConfig};
use drystone_lifecycle::{OnPanic, OnReset, OnTripleFault, Orchestrator, Stage, StateReader};
use drystone_loader::{CmdlineError, InitrdError, KernelError};
use drystone_memory::{GuestRam, Layout, LayoutError, MemoryError};
use drystone_observe::Registry;
use drystone_state::ComponentError;
use drystone_vcpu::cpuid::{ModelError, Topology};
use drystone_vcpu::msr::MsrBank;
use drystone_vcpu::{VcpuError, VcpuSet};
use image::BootImage;
use std::io;
use std::sync::{Arc, Mutex};

pub use device_id::DeviceId;
pub use devices::Console;
pub use handles::{HandleError, Handles};
pub use payload::Booted;
pub use plug::UnplugError;
pub(crate) use plug::Unplugged;
pub(crate) use save::{Begin, Origin};
pub(crate) use virtio::MAX_MMIO_DEVICES;

/// Why a machine could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // each says it in its own message
pub enum MachineError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Initrd(#[from] InitrdError),
    #[error(transparent)]
    Cmdline(#[from] CmdlineError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Hypervisor(#[from] drystone_hypervisor::Error),
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// The vCPUs cannot be grouped so.
    #[error("cpus: {0}")]
    Topology(#[from] CpusError),
    /// A vCPU cannot be bound so.
    #[error("cpu.affinity: {0}")]
    Affinity(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The host lacks what its processors must have.
    #[error("cpu: {0}")]
    Model(#[from] ModelError),
    #[error(transparent)]
    Lifecycle(#[from] drystone_lifecycle::Error),
    #[error(transparent)]
    Load(ComponentError),
    #[error(transparent)]
    Pci(#[from] drystone_pci::SegmentError),
    #[error(transparent)]
    Generation(#[from] drystone_chipset::VmGenIdError),
    #[error(transparent)]
    Slot(#[from] drystone_pci::SlotError),
    #[error(transparent)]
    VirtioPci(#[from] drystone_virtio::PciError),
    /// Only PCI has hot plug.
    #[error("{0}: on virtio-mmio nothing can be added to a machine that runs")]
    ColdTransport(DeviceId),
    /// A name that is taken.
    #[error("{0}: there is {kind} of that name{which}", kind = .0.kind(), which = if *.1 { ", which was pulled and which the guest has not let go of" } else { "" })]
    Taken(DeviceId, bool),
    #[error(transparent)]
    Serial(#[from] drystone_chipset::SerialError),
    /// A disk's settings.
    #[error("disk `{name}`: {what}")]
    Disk {
        /// Its name.
        name: String,
        /// What is wrong with them.
        what: String,
    },
    /// A limit group's settings, or one that there is not.
    #[error("limit group `{name}`: {what}")]
    LimitGroup {
        /// Its name.
        name: String,
        /// What is wrong with them.
        what: String,
    },
    #[error(transparent)]
    Block(#[from] drystone_block::BlockError),
    /// A network device's settings, or the host's network.
    #[error("network device `{name}`: {what}")]
    Net {
        /// Its name.
        name: String,
        /// What is wrong.
        what: String,
    },
    #[error(transparent)]
    NetDevice(#[from] drystone_net::NetError),
    #[error(transparent)]
    Rng(#[from] drystone_rng::RngError),
    #[error(transparent)]
    Virtio(#[from] drystone_virtio::BuildError),
    #[error(transparent)]
    Runner(#[from] drystone_runner::RunnerError),
    #[error(transparent)]
    Observe(#[from] drystone_observe::NameError),
    /// More virtio devices than interrupt lines.
    #[error("too many devices: there are interrupt lines for {most}")]
    TooManyDevices {
        /// How many there are.
        most: usize,
    },
    /// More vCPUs than the host's hypervisor takes.
    #[error("cpus: {asked} virtual CPUs: this host's {hypervisor} has at most {most}")]
    Cpus {
        /// How many were asked for.
        asked: u32,
        /// Its name.
        hypervisor: &'static str,
        /// Its limit.
        most: u32,
    },
    /// The host's processor is not what the saved guest had.
    #[error("cpu: this host's processor lacks what the guest had: {}; drystone cpu --compare says what both hosts can be", .0.join(", "))]
    CpuLacks(Vec<String>),
    /// A saved state that does not fit.
    #[error("cannot restore: {0}")]
    Restore(String),
    /// More events than its event device takes: a mistake in this crate.
    #[error("the machine's own layout is wrong: {0}")]
    Events(#[from] drystone_chipset::GedFull),
    /// Two devices at one address: a mistake in this crate.
    #[error("the machine's own layout is wrong: {0}")]
    Map(#[from] drystone_bus::MapError),
    /// The host gives no event descriptor.
    #[error("cannot make an event for a device: {0}")]
    DeviceEvent(io::Error),
    /// The host gives no event descriptor.
    #[error("cannot make an event for interrupt line {line}: {cause}")]
    Event {
        /// The interrupt line.
        line: u32,
        /// What the host said.
        cause: io::Error,
    },
}

/// A machine that is built and not yet booted, or is being run by its monitor.
pub struct Machine {
    /// Dropped first: it holds the parts, and no vCPU may run when the rest goes.
    pub(crate) orchestrator: Orchestrator,
    pub(crate) vcpus: Arc<VcpuSet>,
    cpus: Cpus,
    booted: Booted,
    config: Config,
    image: Arc<BootImage>,
    begin: Begin,
    devices: devices::Devices,
    board: Arc<Board>,
    shutdown_signal: ShutdownSignal,
    journal: Journal,
    /// Runs workers until it is dropped.
    virtio: virtio::Virtio,
    registry: Registry,
    /// Interrupt wires, then memory: unmapped once nobody uses them.
    _wires: Vec<Guard>,
    _mapped: Vec<Guard>,
}

impl Machine {
    /// Builds what `config` describes, with the kernel loaded and all parts at rest. What happens on its vCPUs is sent to
    /// `handle`'s monitor, what happens to it is told to `journal`. The second value is the guest's serial console.
    ///
    /// # Errors
    /// [`MachineError`]; nothing is left behind.
    pub fn build(
        config: &Config,
        hypervisor: &dyn Hypervisor,
        handle: &Handle,
        journal: &Journal,
    ) -> Result<(Self, Console), MachineError> {
        Self::assemble(config, hypervisor, handle, journal, Origin::Boot)
    }

    /// Builds the machine of a snapshot, paused, with all parts in the state that they had. The rest is as in [`build`](Self::build).
    ///
    /// # Errors
    /// [`MachineError`]; nothing is left behind.
    pub fn restore(
        restore: &Restore,
        hypervisor: &dyn Hypervisor,
        handle: &Handle,
        journal: &Journal,
    ) -> Result<(Self, Console), MachineError> {
        let Restore { snapshot, config, options } = restore;
        Self::assemble(config, hypervisor, handle, journal, Origin::Restore { snapshot, options: *options })
    }

    /// Builds what `config` describes, from its `origin`. There is one way for all of them.
    pub(crate) fn assemble(
        config: &Config,
        hypervisor: &dyn Hypervisor,
        handle: &Handle,
        journal: &Journal,
        origin: Origin<'_>,
    ) -> Result<(Self, Console), MachineError> {
        // What the user named is looked at before anything is made.
        let payload = origin.payload(config)?;
        let booted = Booted::of(&payload, config)?;

        let cpus = Cpus::plan(config, hypervisor, &hypervisor.supported_cpuid()?, origin.cpuid()?)?;
        let layout = Layout::new(config.memory.size.0, cpus.physical_address_bits())?;
        let ram = origin.ram(&layout, config)?;
        let mut vm_config = VmConfig::default();
        cpus.configure(&mut vm_config);
        let vm = hypervisor.create_vm(&vm_config)?;
        let mapped = map(vm.as_ref(), &ram)?;

        let (devices, wires, console) = devices::Devices::new(
            vm.as_ref(),
            &layout,
            ram.view(),
            &config.pci,
            origin.options().identity,
            handle,
        )?;
        let registry = Registry::new();
        let parts = virtio::Parts {
            vm: vm.clone(),
            bus: devices.bus.clone(),
            pci: devices.pci.clone(),
            memory: ram.view(),
            handle: handle.clone(),
            log: journal.devices(),
            registry: registry.clone(),
        };
        let virtio = virtio::Virtio::new(config, parts, origin.slots()?.as_ref())?;
        let describe = devices.describe(virtio.aml(), cpus.topology.apic_ids().collect());
        let (reserved, entry) = (devices.reserved(), Mutex::new(None));
        let image = Arc::new(BootImage { ram, layout, payload, describe, reserved, entry });
        if matches!(origin, Origin::Boot) {
            devices.write_memory()?;
            image.load().map_err(MachineError::Load)?;
        }

        let made = cpus.create(vm.as_ref())?;
        let board = Arc::new(Board::new(vm, origin.options().clocks)?);
        let sink = {
            let handle = handle.clone();
            Arc::new(move |event| handle.vcpu_event(event))
        };
        let (bus, boot) = (devices.bus.clone(), image.clone());
        let vcpus = Arc::new(VcpuSet::with_options(made, bus, sink, boot, &cpus.options())?);

        let events = {
            let journal = journal.clone();
            Arc::new(move |event| journal.lifecycle(&event))
        };
        let mut orchestrator = Orchestrator::new(policy(config), events);
        orchestrator.add(Stage::Vcpus, "vcpus", vcpus.clone())?;
        orchestrator.add(Stage::Devices, "msrs", cpus.msrs.clone())?;
        devices.register(&mut orchestrator)?;
        virtio.register(&mut orchestrator)?;
        orchestrator.add(Stage::Controllers, "board", board.clone())?;
        orchestrator.add(Stage::Backends, "ram", image.clone())?;
        let begin = origin.restore(&mut orchestrator)?;
        let machine = Self {
            orchestrator,
            vcpus,
            cpus,
            booted,
            config: config.with_names(),
            image,
            begin,
            devices,
            board,
            shutdown_signal: config.shutdown_signal,
            journal: journal.clone(),
            virtio,
            registry,
            _wires: wires,
            _mapped: mapped,
        };
        if matches!(origin, Origin::Restore { .. }) {
            machine.tell_unsaved();
        }
        Ok((machine, console))
    }

    /// Begins to serve its virtio devices. A guest that runs already takes a while until it wants one served; what it wants
    /// before waits in a doorbell.
    ///
    /// # Errors
    /// [`MachineError::Runner`]; then it is to be dropped.
    pub(crate) fn serve_devices(&self) -> Result<(), MachineError> {
        self.virtio.start()
    }

    /// Which kernel was loaded, and how it is entered.
    pub fn booted(&self) -> &Booted {
        &self.booted
    }

    /// The machine's state, for other threads.
    pub fn state_reader(&self) -> StateReader {
        self.orchestrator.reader()
    }

    /// Its vCPUs, for counters.
    pub fn vcpus(&self) -> Arc<VcpuSet> {
        self.vcpus.clone()
    }

    /// What can be set on its devices.
    pub fn handles(&self) -> Handles {
        self.virtio.handles()
    }

    /// Counters and state of its parts, by name.
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// How its vCPUs are grouped.
    pub fn topology(&self) -> Topology {
        self.cpus.topology
    }

    /// The model-specific registers that it answers itself, for counters.
    pub fn msrs(&self) -> Arc<MsrBank> {
        self.cpus.msrs.clone()
    }
}

fn policy(config: &Config) -> drystone_lifecycle::Policy {
    let mut policy = drystone_lifecycle::Policy::default();
    policy.on_reset = match config.on_reset {
        Policy::Reset => OnReset::Reset,
        Policy::Stop => OnReset::Stop,
    };
    policy.on_triple_fault = match config.on_triple_fault {
        Policy::Reset => OnTripleFault::Reset,
        Policy::Stop => OnTripleFault::Stop,
    };
    policy.on_panic = match config.on_panic {
        PanicPolicy::Reset => OnPanic::Reset,
        PanicPolicy::Stop => OnPanic::Stop,
        PanicPolicy::Pause => OnPanic::Pause,
    };
    policy
}

fn map(vm: &dyn Vm, ram: &GuestRam) -> Result<Vec<Guard>, drystone_hypervisor::Error> {
    ram.regions().into_iter().map(|region| vm.map_memory(region, MapOptions::default())).collect()
}
