use crate::{Capabilities, Cpuid, Error, Guard, Msi, MsiRoute, Vcpu, VmConfig};
use drystone_memory::Backed;
use drystone_state::Blob;
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

/// How a memory range is mapped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MapOptions {
    /// Guest writes become MMIO writes.
    pub read_only: bool,
    /// The hypervisor records which pages the guest writes.
    pub log_dirty: bool,
}

impl MapOptions {
    /// Readable only.
    pub fn read_only() -> Self {
        Self { read_only: true, ..Self::default() }
    }
    /// Readable and writable, with the hypervisor's dirty log.
    pub fn log_dirty() -> Self {
        Self { log_dirty: true, ..Self::default() }
    }
}

/// Where a guest's write rings a doorbell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoAddress {
    /// A port.
    Pio(u16),
    /// A guest-physical address.
    Mmio(u64),
}

/// Which writes ring a doorbell, where only some do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datamatch {
    /// The value that must be written.
    pub value: u64,
    /// The width of the write in bytes: 1, 2, 4 or 8.
    pub len: u8,
}

/// A hypervisor of this host.
pub trait Hypervisor: Send + Sync {
    /// Its name, for messages: `"KVM"`.
    fn name(&self) -> &'static str;
    /// What it can do.
    fn capabilities(&self) -> Capabilities;
    /// All that a virtual CPU on this host can be told to answer to CPUID.
    ///
    /// # Errors
    /// [`Error::Call`] when the host refuses.
    fn supported_cpuid(&self) -> Result<Cpuid, Error>;
    /// Makes a VM without vCPUs and memory.
    ///
    /// # Errors
    /// [`Error::Missing`] for what the host lacks, [`Error::Invalid`] for what makes no sense, [`Error::Call`] when the
    /// host refuses.
    fn create_vm(&self, config: &VmConfig) -> Result<Arc<dyn Vm>, Error>;
}

/// A virtual machine: what its vCPUs share. All methods may be called from any thread.
pub trait Vm: Send + Sync {
    /// Maps `region` for the guest until the guard is dropped. The VM keeps `region` alive meanwhile.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty, unaligned or overlapping range or when all slots are taken, [`Error::Call`]
    /// when the host refuses.
    fn map_memory(&self, region: Arc<dyn Backed>, options: MapOptions) -> Result<Guard, Error>;

    /// Makes a vCPU. Numbers are local APIC IDs; each is used once.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a number in use or too large, [`Error::Call`] when the host refuses.
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, Error>;

    /// Sets the level of an interrupt line (GSI: a PIC or I/O APIC input).
    ///
    /// # Errors
    /// [`Error::Call`], also for a VM without such interrupt controllers.
    fn set_irq_line(&self, gsi: u32, high: bool) -> Result<(), Error>;

    /// Pulses `gsi` whenever `event` is written, until the guard is dropped.
    ///
    /// # Errors
    /// [`Error::Call`], also for a VM without such interrupt controllers.
    fn register_irqfd(&self, event: &EventFd, gsi: u32) -> Result<Guard, Error>;

    /// Sends an interrupt message once. One that no local APIC takes is lost, as on hardware: that is no error.
    ///
    /// # Errors
    /// [`Error::Call`], also for a VM without local APICs.
    fn signal_msi(&self, message: Msi) -> Result<(), Error>;

    /// Makes a message of its own for `event`: masked at first, see [`MsiRoute::set`].
    ///
    /// # Errors
    /// [`Error::Invalid`] when there are too many, [`Error::Call`], also for a VM without local APICs.
    fn create_msi_route(&self, event: &EventFd) -> Result<Box<dyn MsiRoute>, Error>;

    /// As [`create_msi_route`](Self::create_msi_route), for the input `pin` of an I/O APIC that is the VMM's. When the
    /// guest acknowledges its message, and that is level-triggered (bit 15 of the data), the vCPU exits with
    /// [`Exit::IoApicEoi`](crate::Exit::IoApicEoi).
    ///
    /// # Errors
    /// [`Error::Invalid`] for a pin of 24 or more or one in use, [`Error::Call`], also for a VM that is not
    /// [`InterruptControllers::Split`](crate::InterruptControllers::Split).
    fn create_pin_route(&self, pin: u32, event: &EventFd) -> Result<Box<dyn MsiRoute>, Error>;

    /// Writes `event` whenever the guest writes to `addr` (of the value in `datamatch`, if given), without an exit,
    /// until the guard is dropped.
    ///
    /// # Errors
    /// [`Error::Call`], also for an address that has such a doorbell already.
    fn register_ioeventfd(
        &self,
        event: &EventFd,
        addr: IoAddress,
        datamatch: Option<Datamatch>,
    ) -> Result<Guard, Error>;

    /// Lets the guest's writes to the `len` ports from `port` on wait for its next exit, instead of being one each, until the guard
    /// is dropped. That is for registers that only say what the next access to another one is about. It comes before the vCPUs
    /// first run, on a host with [`Capabilities::deferred_writes`].
    ///
    /// A vCPU hands over what waits ([`IoHandler::deferred_write`](crate::IoHandler::deferred_write)), its own writes and the others',
    /// in their order, whenever it leaves the guest: before the access that it left for, and before [`Vcpu::run`] returns. So a
    /// vCPU's accesses are seen in its order, and nothing waits in a VM whose vCPUs are all out of the guest. A write that finds no
    /// room to wait is an exit like any other; of a string instruction's items (REP OUTS) those that find none may be lost.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no ports, or some above 0xffff, [`Error::Missing`] for a host that cannot, [`Error::Call`] when it
    /// refuses.
    fn defer_writes(&self, port: u16, len: u16) -> Result<Guard, Error>;

    /// The pages that the guest wrote to in the region that starts at `guest_base` since the last call, as a bitmap:
    /// bit `n % 64` of word `n / 64` is the region's page `n` of 4 KiB. Pages that it used otherwise may be in it too:
    /// KVM on hardware counts a page as written once it maps it writable, even for a read.
    ///
    /// It may be called while vCPUs run. A page that is written later than the call is in the next bitmap, so whoever
    /// copies the pages of each bitmap after it has a copy of all once the vCPUs stand still and the last bitmap is empty.
    /// Of a write that a vCPU is just making the call need not know: for the last bitmap all vCPUs must be out of the guest.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless such a region is mapped with [`MapOptions::log_dirty`], [`Error::Call`] when the host
    /// refuses.
    fn dirty_log(&self, guest_base: u64) -> Result<Vec<u64>, Error>;

    /// The state of what vCPUs share: interrupt controllers, timer, clock. All vCPUs must be out of the guest.
    ///
    /// # Errors
    /// [`Error`] when a part cannot be read.
    fn save(&self) -> Result<Blob, Error>;
    /// Takes over a state that [`save`](Self::save) gave, on this VM or on a fresh one with the same configuration. Comes
    /// before the restore of its vCPUs. `clocks` says what the guest's clocks make of the time since the save.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a foreign or broken state, [`Error::Call`] when the host refuses a part.
    fn restore(&self, state: &Blob, clocks: Clocks) -> Result<(), Error>;
}

/// What the clocks that the hypervisor keeps for a guest (its paravirtual clock, its time stamp counters) make of the time between a save
/// and the restore. A wall clock that a device shows is that device's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Clocks {
    /// They go on as if they had run meanwhile, by the host's wall clock: to the guest it is as if it had slept.
    #[default]
    GoOn,
    /// They go on from where they stood: the guest does not see that time went by. A host that shows guests its own time stamp counter
    /// cannot do that for the counter.
    StandStill,
}
