//! A hypervisor without a CPU, for tests of whatever stands on the traits.
//!
//! A guest is a closure over a [`GuestCpu`] (or a [`Script`]), run as a program on a thread of its own that only ever
//! moves while its vCPU is inside [`Vcpu::run`](crate::Vcpu::run). Each access that leaves RAM comes back as one
//! [`Exit::Io`](crate::Exit::Io); kicks and pauses work in the middle of the program; dropping the vCPU unwinds it
//! without a word. A [`Recorder`] keeps what the guest did.
//!
//! # What it does not do
//! - There are no instructions: RIP never moves. The registers are what was set, but for RAX, which a completed
//!   input loads as `in al, dx` or `mov eax, [address]` would. A program that keeps its own state in registers or
//!   RAM can be saved and restored; one that keeps it in variables starts anew.
//! - [`Vcpu::restore`](crate::Vcpu::restore) takes the registers over and **starts the program from the beginning**.
//! - A program that computes for ever without one operation on its `GuestCpu` cannot be kicked out of it. One that
//!   operates for ever runs out of its step budget, and its vCPU fails.
//! - Interrupt inputs are edge-triggered, shared by all vCPUs, and taken by the first that asks. Interrupt messages
//!   reach the vCPU that they are for. Either is taken when the guest asks, and never interrupts it.
//! - No figure measured on it says anything about a real hypervisor.

mod cpu;
mod deferred;
mod faulty;
mod irq;
mod memory;
mod recorder;
mod rendezvous;
mod route;
mod script;
mod vcpu;
mod vm;

pub use cpu::{GuestCpu, Unmapped};
pub use faulty::{Call, Faults, Faulty};
pub use recorder::{Op, Recorder};
pub use script::{Script, Step};

use crate::{Capabilities, Cpuid, CpuidEntry, Error, Hypervisor, Vm, VmConfig};
use std::sync::{Arc, Mutex, MutexGuard};

/// What one vCPU runs.
pub type Program = Box<dyn FnOnce(&mut GuestCpu) + Send>;

type Factory = Arc<dyn Fn(u32) -> Program + Send + Sync>;

/// The most operations that a guest program may do, unless said otherwise.
pub const DEFAULT_STEPS: u64 = 10_000_000;

/// A [`Hypervisor`] whose guests are programs.
///
/// ```
/// use drystone_hypervisor::fake::FakeHypervisor;
/// use drystone_hypervisor::{Exit, Hypervisor, IoHandler, VmConfig};
///
/// struct Console(Vec<u8>);
/// impl IoHandler for Console {
///     fn pio_read(&mut self, _port: u16, data: &mut [u8]) { data.fill(0xff) }
///     fn pio_write(&mut self, _port: u16, data: &[u8]) { self.0.extend_from_slice(data) }
///     fn mmio_read(&mut self, _addr: u64, data: &mut [u8]) { data.fill(0xff) }
///     fn mmio_write(&mut self, _addr: u64, _data: &[u8]) {}
/// }
///
/// let host = FakeHypervisor::new(|cpu| b"hi".iter().for_each(|&c| cpu.out8(0x3f8, c)));
/// let vm = host.create_vm(&VmConfig::bare()).unwrap();
/// let mut vcpu = vm.create_vcpu(0).unwrap();
/// let mut console = Console(Vec::new());
/// while vcpu.run(&mut console).unwrap() != Exit::Halted {}
/// assert_eq!(console.0, b"hi");
/// ```
#[derive(Clone)]
pub struct FakeHypervisor {
    factory: Factory,
    steps: u64,
    cpuid: Cpuid,
    unsaved: Vec<String>,
    recorder: Recorder,
}

impl FakeHypervisor {
    /// Every vCPU runs `program`; [`GuestCpu::id`] tells which it is. A vCPU whose program returns halts for ever.
    pub fn new(program: impl Fn(&mut GuestCpu) + Send + Sync + 'static) -> Self {
        let program = Arc::new(program);
        Self::with_programs(move |_| {
            let program = program.clone();
            Box::new(move |cpu| program(cpu))
        })
    }

    /// The vCPU numbered `id` runs what `factory` makes for it: once when it first runs, and again after each restore.
    pub fn with_programs(factory: impl Fn(u32) -> Program + Send + Sync + 'static) -> Self {
        Self {
            factory: Arc::new(factory),
            steps: DEFAULT_STEPS,
            cpuid: default_cpuid(),
            unsaved: Vec::new(),
            recorder: Recorder::default(),
        }
    }

    /// The vCPU numbered `n` runs `scripts[n]`; those beyond halt.
    pub fn scripted(scripts: impl IntoIterator<Item = Script>) -> Self {
        let scripts: Arc<[Script]> = scripts.into_iter().collect();
        Self::with_programs(move |id| {
            let script = scripts.get(id as usize).cloned().unwrap_or_default();
            Box::new(move |cpu| script.run(cpu))
        })
    }

    /// Limits every vCPU's program to `steps` operations; the next one fails the vCPU.
    #[must_use]
    pub fn with_step_budget(self, steps: u64) -> Self {
        Self { steps, ..self }
    }

    /// Decides what [`supported_cpuid`](Hypervisor::supported_cpuid) answers.
    #[must_use]
    pub fn with_cpuid(self, cpuid: Cpuid) -> Self {
        Self { cpuid, ..self }
    }

    /// Names what it cannot save of its vCPUs; it can save everything unless this is called.
    #[must_use]
    pub fn with_unsaved<'a>(self, names: impl IntoIterator<Item = &'a str>) -> Self {
        Self { unsaved: names.into_iter().map(str::to_owned).collect(), ..self }
    }

    /// What the guests of all its VMs did.
    pub fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }
}

impl Hypervisor for FakeHypervisor {
    fn name(&self) -> &'static str {
        "fake"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            max_vcpus: vm::MAX_VCPUS,
            memory_slots: memory::MAX_SLOTS,
            irqchip: true,
            split_irqchip: true,
            msi: true,
            msr_filter: true,
            notify_stopped: true,
            dirty_ring_entries: vm::MAX_RING,
            halt_poll: true,
            deferred_writes: true,
        }
    }
    fn supported_cpuid(&self) -> Result<Cpuid, Error> {
        Ok(self.cpuid.clone())
    }
    fn create_vm(&self, config: &VmConfig) -> Result<Arc<dyn Vm>, Error> {
        Ok(Arc::new(vm::FakeVm::new(self, config)?))
    }
}

/// A small but plausible 64-bit CPU.
fn default_cpuid() -> Cpuid {
    let entry =
        |leaf, subleaf, [eax, ebx, ecx, edx]: [u32; 4]| CpuidEntry { leaf, subleaf, eax, ebx, ecx, edx };
    Cpuid(vec![
        entry(0, None, [0xd, 0x656b_6146, 0x2055_5043, 0x2020_2020]), // "Fake    CPU "
        // Family 6; CLFLUSH 64 bytes; SSE3, CX16, x2APIC, TSC deadline, hypervisor; FPU .. SSE2.
        entry(1, None, [0x000_306a9, 0x0001_0800, 0x8120_2001, 0x0783_fbff]),
        entry(4, Some(0), [0x121, 0x01c0_003f, 63, 0]),
        entry(4, Some(1), [0, 0, 0, 0]),
        entry(7, Some(0), [0, 0, 0, 0]),
        entry(0xb, Some(0), [0, 1, 0x100, 0]),
        entry(0xb, Some(1), [0, 1, 0x201, 0]),
        entry(0xd, Some(0), [3, 0x240, 0x240, 0]),
        entry(0xd, Some(1), [0, 0, 0, 0]),
        entry(0x8000_0000, None, [0x8000_0008, 0, 0, 0]),
        entry(0x8000_0001, None, [0, 0, 1, 0x2010_0800]), // LAHF; SYSCALL, NX, long mode
        entry(0x8000_0008, None, [0x3027, 0, 0, 0]),      // 39 physical, 48 linear address bits
    ])
}

/// A test that failed while it held a lock has said why already: go on with what is there.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
mod tests;
