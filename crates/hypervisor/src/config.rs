use crate::MsrFilter;
use std::time::Duration;

/// What the host's hypervisor can do. A back end begins with the default, which is nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The most vCPUs that a VM may have.
    pub max_vcpus: u32,
    /// The most memory ranges that can be mapped at a time.
    pub memory_slots: u32,
    /// [`InterruptControllers::Full`].
    pub irqchip: bool,
    /// [`InterruptControllers::Split`].
    pub split_irqchip: bool,
    /// Interrupt messages: [`Vm::signal_msi`](crate::Vm::signal_msi), [`Vm::create_msi_route`](crate::Vm::create_msi_route).
    pub msi: bool,
    /// MSR accesses can be handed to the VMM: [`MsrFilter`].
    pub msr_filter: bool,
    /// [`Vcpu::notify_stopped`](crate::Vcpu::notify_stopped) reaches guests.
    pub notify_stopped: bool,
    /// The most entries that a ring of [`DirtyTracking::Ring`] may have; 0 where there are no rings.
    pub dirty_ring_entries: u32,
    /// [`VmConfig::halt_poll`].
    pub halt_poll: bool,
    /// [`Vm::defer_writes`](crate::Vm::defer_writes).
    pub deferred_writes: bool,
}

/// Which interrupt controllers the hypervisor itself is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum InterruptControllers {
    /// None: HLT exits, and there are no interrupts.
    None,
    /// Local APICs only. PIC and I/O APIC, if the machine has any, are the VMM's: their registers exit, and their
    /// inputs become messages. Enough by itself for a machine whose devices all send messages.
    Split,
    /// PIC, I/O APIC and local APICs.
    #[default]
    Full,
}

/// How the hypervisor records which pages the guest writes, in memory that is mapped so
/// ([`MapOptions::log_dirty`](crate::MapOptions::log_dirty)). Both are read by [`Vm::dirty_log`](crate::Vm::dirty_log).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DirtyTracking {
    /// A bit for each page: reading costs in proportion to the memory.
    #[default]
    Log,
    /// A list of pages for each vCPU: reading costs in proportion to what was written, and a vCPU that fills its list
    /// waits until it is read, so the guest cannot write faster than that. A vCPU reads its own when it is full.
    Ring {
        /// How many pages a list holds: a power of two, at most [`Capabilities::dirty_ring_entries`]. KVM keeps
        /// some to itself and asks for 1,024 or more.
        entries: u32,
    },
}

/// What is fixed when a VM is made. Begin with [`default`](Self::default) or [`bare`](Self::bare), and change fields.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VmConfig {
    /// The hypervisor's interrupt controllers.
    pub interrupts: InterruptControllers,
    /// An 8254 timer in the hypervisor; needs [`InterruptControllers::Full`].
    pub pit: bool,
    /// The model-specific registers that are not the hypervisor's own affair.
    pub msrs: MsrFilter,
    /// How written pages are recorded.
    pub dirty: DirtyTracking,
    /// The longest time that a halted vCPU keeps its host CPU busy in the hope of an interrupt, before it sleeps: less
    /// delay for more load on the host. At most 4.2 seconds; `None` leaves it to the host.
    pub halt_poll: Option<Duration>,
}

impl Default for VmConfig {
    /// A PC: interrupt controllers and timer in the hypervisor.
    fn default() -> Self {
        Self {
            interrupts: InterruptControllers::Full,
            pit: true,
            msrs: MsrFilter::default(),
            dirty: DirtyTracking::Log,
            halt_poll: None,
        }
    }
}

impl VmConfig {
    /// No interrupt controller and no timer: the smallest machine, for guests that only compute and do I/O.
    pub fn bare() -> Self {
        Self { interrupts: InterruptControllers::None, pit: false, ..Self::default() }
    }

    /// Whether there are local APICs, so that HLT waits for an interrupt.
    pub fn has_interrupts(&self) -> bool {
        self.interrupts != InterruptControllers::None
    }

    /// Local APICs, and nothing else that a PC has.
    pub fn split() -> Self {
        Self { interrupts: InterruptControllers::Split, pit: false, ..Self::default() }
    }
}
