use crate::{Cpuid, Error, Msr, Regs, RunError, Sregs};
use drystone_state::Blob;
use std::sync::Arc;

/// Why a vCPU came back from the guest, beyond I/O that its handler has already answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// An access was handed to the [`IoHandler`]. The instruction completes when the vCPU next runs.
    Io,
    /// A [`Kicker`] asked for it, or a signal did. Every I/O instruction is complete: the state may be read.
    Interrupted,
    /// The guest executed HLT, and no interrupt controller in the hypervisor waits on its behalf.
    Halted,
    /// A triple fault: the guest can do nothing more until it is reset.
    Shutdown,
    /// A debug event (single step or breakpoint) that the VMM asked for.
    Debug,
    /// The guest acknowledged a level-triggered interrupt of an I/O APIC that is the VMM's
    /// ([`InterruptControllers::Split`](crate::InterruptControllers::Split)).
    IoApicEoi {
        /// The interrupt's vector.
        vector: u8,
    },
}

/// Answers a vCPU's accesses to what is not RAM, and to registers that the VM's configuration hands over.
///
/// `data` is one access, 1 to 8 bytes, little endian; a string instruction arrives as that many accesses.
pub trait IoHandler {
    /// IN: fills `data`.
    fn pio_read(&mut self, port: u16, data: &mut [u8]);
    /// OUT.
    fn pio_write(&mut self, port: u16, data: &[u8]);
    /// An OUT that has waited, by this vCPU or another: see [`Vm::defer_writes`](crate::Vm::defer_writes).
    fn deferred_write(&mut self, port: u16, data: &[u8]) {
        self.pio_write(port, data);
    }
    /// A load from a guest-physical address: fills `data`.
    fn mmio_read(&mut self, addr: u64, data: &mut [u8]);
    /// A store to a guest-physical address.
    fn mmio_write(&mut self, addr: u64, data: &[u8]);
    /// RDMSR of a register that [`MsrFilter`](crate::MsrFilter) hands over: its value, or `None` for a general
    /// protection fault.
    fn rdmsr(&mut self, index: u32) -> Option<u64> {
        let _ = index;
        None
    }
    /// WRMSR of such a register: whether it is accepted. If not, the guest gets a general protection fault.
    fn wrmsr(&mut self, index: u32, value: u64) -> bool {
        let _ = (index, value);
        false
    }
}

/// Gets a vCPU out of the guest, from any thread.
///
/// A kick is **latched**: exactly the next return of [`Exit::Interrupted`] consumes it, whether the kick came while
/// the vCPU was in the guest, between two runs, or before its first. Kicks that nobody has consumed merge. So a
/// thread that stores a request and then kicks knows that the vCPU's thread, which looks for requests after every
/// `Interrupted`, will see it. Kicking a vCPU that is gone does nothing.
pub trait Kicker: Send + Sync {
    /// Makes the current or next [`Vcpu::run`] return [`Exit::Interrupted`] soon.
    fn kick(&self);
}

/// A virtual CPU. It belongs to one thread at a time; [`run`](Self::run) is called from one thread only.
pub trait Vcpu: Send {
    /// The number it was created with; its local APIC's ID.
    fn id(&self) -> u32;

    /// Runs the guest until the first exit. Accesses are handed to `io` before it returns.
    /// Returns at once with [`Exit::Interrupted`] if a kick is latched, after completing any pending I/O instruction.
    ///
    /// # Errors
    /// [`RunError`] when the guest cannot go on.
    fn run(&mut self, io: &mut dyn IoHandler) -> Result<Exit, RunError>;

    /// A handle that gets this vCPU out of [`run`](Self::run).
    fn kicker(&self) -> Arc<dyn Kicker>;

    /// Reads the general registers. Only exact after [`Exit::Interrupted`], as all of the state.
    ///
    /// # Errors
    /// [`Error::Call`], here and below, when the host refuses.
    fn regs(&self) -> Result<Regs, Error>;
    /// Sets the general registers.
    ///
    /// # Errors
    /// [`Error::Call`].
    fn set_regs(&mut self, regs: &Regs) -> Result<(), Error>;
    /// Reads segment and control registers.
    ///
    /// # Errors
    /// [`Error::Call`].
    fn sregs(&self) -> Result<Sregs, Error>;
    /// Sets segment and control registers.
    ///
    /// # Errors
    /// [`Error::Call`].
    fn set_sregs(&mut self, sregs: &Sregs) -> Result<(), Error>;
    /// What the vCPU answers to CPUID.
    ///
    /// # Errors
    /// [`Error::Call`].
    fn cpuid(&self) -> Result<Cpuid, Error>;
    /// Decides what the vCPU answers to CPUID. Before it first runs.
    ///
    /// # Errors
    /// [`Error::Call`].
    fn set_cpuid(&mut self, cpuid: &Cpuid) -> Result<(), Error>;
    /// Reads the model-specific registers with these numbers, in that order.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first register that cannot be read.
    fn msrs(&self, indices: &[u32]) -> Result<Vec<Msr>, Error>;
    /// Sets model-specific registers.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first register that cannot be set; those before it are set.
    fn set_msrs(&mut self, msrs: &[Msr]) -> Result<(), Error>;

    /// Lets a secondary vCPU run from its registers at once. Without it, one with a local APIC waits until another vCPU
    /// starts it, as on hardware (INIT and SIPI, Intel SDM volume 3, 9.4).
    ///
    /// # Errors
    /// [`Error::Call`] when the host refuses.
    fn start(&mut self) -> Result<(), Error>;

    /// Tells the guest, before it runs on, that it was stopped from outside for a while, so that its watchdogs do not take
    /// that for a lock-up. Does nothing for a guest without a paravirtual clock to be told through, or on a host that
    /// cannot tell it ([`Capabilities::notify_stopped`](crate::Capabilities::notify_stopped)).
    ///
    /// # Errors
    /// [`Error::Call`] when the host refuses.
    fn notify_stopped(&mut self) -> Result<(), Error>;

    /// The complete state: all of the above but CPUID, and everything else that the guest could notice.
    ///
    /// # Errors
    /// [`Error`] when a part cannot be read.
    fn save(&self) -> Result<Blob, Error>;
    /// What the state lacks that it last gave to a save or took over at a restore, because the host on which that was saved could not
    /// give it; by the names that the host's documentation uses, for a report. Nothing before the first of either.
    fn unsaved(&self) -> Vec<String>;
    /// Takes over a state that [`save`](Self::save) gave, on this vCPU (a reset to its state at creation) or on a
    /// fresh one of a VM with the same configuration. The VM's own state is restored first, and then the state of all of
    /// its vCPUs.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a foreign or broken state or one that this host has no place for, naming the part;
    /// [`Error::Call`] when the host refuses a part.
    fn restore(&mut self, state: &Blob) -> Result<(), Error>;
}
