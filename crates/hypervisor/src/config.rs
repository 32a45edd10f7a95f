use crate::MsrFilter;

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
}

impl Default for VmConfig {
    /// A PC: interrupt controllers and timer in the hypervisor.
    fn default() -> Self {
        Self { interrupts: InterruptControllers::Full, pit: true, msrs: MsrFilter::default() }
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
