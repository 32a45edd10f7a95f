//! A hypervisor that fails when it is planned to, over any other.

use super::lock;
use crate::{
    Capabilities, Clocks, Cpuid, Datamatch, Error, Exit, Guard, Hypervisor, IoAddress, IoHandler, Kicker,
    MapOptions, Msi, MsiRoute, Msr, Regs, RunError, Sregs, Vcpu, Vm, VmConfig,
};
use drystone_memory::Backed;
use drystone_state::Blob;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use vmm_sys_util::eventfd::EventFd;

/// A call that can be planned to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(missing_docs)] // the methods of the traits
pub enum Call {
    SupportedCpuid,
    CreateVm,
    MapMemory,
    CreateVcpu,
    SetIrqLine,
    RegisterIrqfd,
    SignalMsi,
    CreateMsiRoute,
    CreatePinRoute,
    RegisterIoeventfd,
    DeferWrites,
    DirtyLog,
    SaveVm,
    RestoreVm,
    Run,
    Regs,
    SetRegs,
    Sregs,
    SetSregs,
    Cpuid,
    SetCpuid,
    Msrs,
    SetMsrs,
    Start,
    NotifyStopped,
    SaveVcpu,
    RestoreVcpu,
}

enum Fault {
    Error(Box<dyn FnOnce() -> Error + Send>),
    Interrupted,
}

/// What is left of the plan, and how often each call was made.
#[derive(Default)]
struct Plan {
    made: BTreeMap<Call, u32>,
    faults: BTreeMap<(Call, u32), Fault>,
}

impl Drop for Plan {
    /// A fault that never came is a test that tests nothing.
    #[allow(clippy::panic)]
    fn drop(&mut self) {
        let left: Vec<_> = self.faults.keys().collect();
        if !left.is_empty() && !std::thread::panicking() {
            panic!("planned faults that never came: {left:?}");
        }
    }
}

/// A plan of faults. Clones share it; when the last one and everything made under it are gone, a plan that is not used up
/// panics.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<Plan>>);

impl Faults {
    /// No faults yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The `nth` of all calls of this kind, counted from 1 since the plan was made, fails: [`Error::Call`], or
    /// [`RunError::Call`] for [`Call::Run`], whose cause is `a planned fault`.
    #[must_use]
    pub fn fail(self, call: Call, nth: u32) -> Self {
        let error =
            move || Error::Call { attempt: format!("make call {call:?} number {nth}"), cause: planned() };
        self.fail_with(call, nth, error)
    }

    /// As [`fail`](Self::fail), with an error of the caller's choice. [`Call::Run`] gives it as its cause.
    #[must_use]
    pub fn fail_with(self, call: Call, nth: u32, error: impl FnOnce() -> Error + Send + 'static) -> Self {
        lock(&self.0).faults.insert((call, nth), Fault::Error(Box::new(error)));
        self
    }

    /// The `nth` run ends with [`Exit::Interrupted`] before the guest does anything but complete its last access, as if a
    /// stranger's signal had come.
    #[must_use]
    pub fn interrupt(self, nth: u32) -> Self {
        lock(&self.0).faults.insert((Call::Run, nth), Fault::Interrupted);
        self
    }

    /// Whether every fault has come.
    pub fn used_up(&self) -> bool {
        lock(&self.0).faults.is_empty()
    }

    /// Forgets the faults that have not come: for a loop that tries one call after the other until there is none.
    pub fn forget(&self) {
        lock(&self.0).faults.clear();
    }

    fn next(&self, call: Call) -> Option<Fault> {
        let mut plan = lock(&self.0);
        let made = plan.made.entry(call).or_default();
        *made += 1;
        let nth = *made;
        plan.faults.remove(&(call, nth))
    }

    fn check(&self, call: Call) -> Result<(), Error> {
        match self.next(call) {
            Some(Fault::Error(error)) => Err(error()),
            _ => Ok(()),
        }
    }
}

fn planned() -> io::Error {
    io::Error::other("a planned fault")
}

/// A hypervisor, VM or vCPU whose calls fail as its plan says, and otherwise do what they do without it.
///
/// ```
/// use drystone_hypervisor::fake::{Call, FakeHypervisor, Faults, Faulty};
/// use drystone_hypervisor::{Hypervisor, VmConfig};
///
/// let faults = Faults::new().fail(Call::CreateVcpu, 2);
/// let vm = Faulty::new(FakeHypervisor::new(|_| ()), &faults).create_vm(&VmConfig::bare()).unwrap();
/// assert!(vm.create_vcpu(0).is_ok());
/// assert!(vm.create_vcpu(1).err().unwrap().to_string().ends_with("a planned fault"));
/// assert!(vm.create_vcpu(1).is_ok() && faults.used_up());
/// ```
pub struct Faulty<V> {
    inner: V,
    faults: Faults,
}

impl<V> Faulty<V> {
    /// `inner`, with the faults of this plan.
    pub fn new(inner: V, faults: &Faults) -> Self {
        Self { inner, faults: faults.clone() }
    }
}

impl<H: Hypervisor> Hypervisor for Faulty<H> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    fn supported_cpuid(&self) -> Result<Cpuid, Error> {
        self.faults.check(Call::SupportedCpuid)?;
        self.inner.supported_cpuid()
    }
    fn create_vm(&self, config: &VmConfig) -> Result<Arc<dyn Vm>, Error> {
        self.faults.check(Call::CreateVm)?;
        Ok(Arc::new(Faulty::new(self.inner.create_vm(config)?, &self.faults)))
    }
}

impl Vm for Faulty<Arc<dyn Vm>> {
    fn map_memory(&self, region: Arc<dyn Backed>, options: MapOptions) -> Result<Guard, Error> {
        self.faults.check(Call::MapMemory)?;
        self.inner.map_memory(region, options)
    }
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, Error> {
        self.faults.check(Call::CreateVcpu)?;
        Ok(Box::new(Faulty::new(self.inner.create_vcpu(id)?, &self.faults)))
    }
    fn set_irq_line(&self, gsi: u32, high: bool) -> Result<(), Error> {
        self.faults.check(Call::SetIrqLine)?;
        self.inner.set_irq_line(gsi, high)
    }
    fn register_irqfd(&self, event: &EventFd, gsi: u32) -> Result<Guard, Error> {
        self.faults.check(Call::RegisterIrqfd)?;
        self.inner.register_irqfd(event, gsi)
    }
    fn signal_msi(&self, message: Msi) -> Result<(), Error> {
        self.faults.check(Call::SignalMsi)?;
        self.inner.signal_msi(message)
    }
    fn create_msi_route(&self, event: &EventFd) -> Result<Box<dyn MsiRoute>, Error> {
        self.faults.check(Call::CreateMsiRoute)?;
        self.inner.create_msi_route(event)
    }
    fn create_pin_route(&self, pin: u32, event: &EventFd) -> Result<Box<dyn MsiRoute>, Error> {
        self.faults.check(Call::CreatePinRoute)?;
        self.inner.create_pin_route(pin, event)
    }
    fn register_ioeventfd(
        &self,
        event: &EventFd,
        addr: IoAddress,
        datamatch: Option<Datamatch>,
    ) -> Result<Guard, Error> {
        self.faults.check(Call::RegisterIoeventfd)?;
        self.inner.register_ioeventfd(event, addr, datamatch)
    }
    fn defer_writes(&self, port: u16, len: u16) -> Result<Guard, Error> {
        self.faults.check(Call::DeferWrites)?;
        self.inner.defer_writes(port, len)
    }
    fn dirty_log(&self, guest_base: u64) -> Result<Vec<u64>, Error> {
        self.faults.check(Call::DirtyLog)?;
        self.inner.dirty_log(guest_base)
    }
    fn save(&self) -> Result<Blob, Error> {
        self.faults.check(Call::SaveVm)?;
        self.inner.save()
    }
    fn restore(&self, state: &Blob, clocks: Clocks) -> Result<(), Error> {
        self.faults.check(Call::RestoreVm)?;
        self.inner.restore(state, clocks)
    }
}

impl Vcpu for Faulty<Box<dyn Vcpu>> {
    fn id(&self) -> u32 {
        self.inner.id()
    }
    fn run(&mut self, io: &mut dyn IoHandler) -> Result<Exit, RunError> {
        match self.faults.next(Call::Run) {
            Some(Fault::Error(error)) => {
                let cause = match error() {
                    Error::Call { cause, .. } => cause,
                    other => io::Error::other(other),
                };
                return Err(RunError::Call { id: self.id(), cause });
            }
            Some(Fault::Interrupted) => self.inner.kicker().kick(),
            None => {}
        }
        self.inner.run(io)
    }
    fn kicker(&self) -> Arc<dyn Kicker> {
        self.inner.kicker()
    }
    fn regs(&self) -> Result<Regs, Error> {
        self.faults.check(Call::Regs)?;
        self.inner.regs()
    }
    fn set_regs(&mut self, regs: &Regs) -> Result<(), Error> {
        self.faults.check(Call::SetRegs)?;
        self.inner.set_regs(regs)
    }
    fn sregs(&self) -> Result<Sregs, Error> {
        self.faults.check(Call::Sregs)?;
        self.inner.sregs()
    }
    fn set_sregs(&mut self, sregs: &Sregs) -> Result<(), Error> {
        self.faults.check(Call::SetSregs)?;
        self.inner.set_sregs(sregs)
    }
    fn cpuid(&self) -> Result<Cpuid, Error> {
        self.faults.check(Call::Cpuid)?;
        self.inner.cpuid()
    }
    fn set_cpuid(&mut self, cpuid: &Cpuid) -> Result<(), Error> {
        self.faults.check(Call::SetCpuid)?;
        self.inner.set_cpuid(cpuid)
    }
    fn msrs(&self, indices: &[u32]) -> Result<Vec<Msr>, Error> {
        self.faults.check(Call::Msrs)?;
        self.inner.msrs(indices)
    }
    fn set_msrs(&mut self, msrs: &[Msr]) -> Result<(), Error> {
        self.faults.check(Call::SetMsrs)?;
        self.inner.set_msrs(msrs)
    }
    fn start(&mut self) -> Result<(), Error> {
        self.faults.check(Call::Start)?;
        self.inner.start()
    }
    fn notify_stopped(&mut self) -> Result<(), Error> {
        self.faults.check(Call::NotifyStopped)?;
        self.inner.notify_stopped()
    }
    fn save(&self) -> Result<Blob, Error> {
        self.faults.check(Call::SaveVcpu)?;
        self.inner.save()
    }
    fn unsaved(&self) -> Vec<String> {
        self.inner.unsaved()
    }
    fn restore(&mut self, state: &Blob) -> Result<(), Error> {
        self.faults.check(Call::RestoreVcpu)?;
        self.inner.restore(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeHypervisor;

    struct NoIo;
    impl IoHandler for NoIo {
        fn pio_read(&mut self, _: u16, _: &mut [u8]) {}
        fn pio_write(&mut self, _: u16, _: &[u8]) {}
        fn mmio_read(&mut self, _: u64, _: &mut [u8]) {}
        fn mmio_write(&mut self, _: u64, _: &[u8]) {}
    }

    #[test]
    fn faults_come_once_each_where_they_are_planned() {
        let faults = Faults::new().interrupt(1).fail(Call::Run, 3).fail(Call::Regs, 2);
        let host = Faulty::new(FakeHypervisor::new(|cpu| (0..9).for_each(|_| cpu.out8(1, 1))), &faults);
        let mut vcpu = host.create_vm(&VmConfig::bare()).unwrap().create_vcpu(0).unwrap();
        assert_eq!(vcpu.run(&mut NoIo).unwrap(), Exit::Interrupted);
        assert_eq!(vcpu.run(&mut NoIo).unwrap(), Exit::Io);
        assert_eq!(vcpu.run(&mut NoIo).unwrap_err().to_string(), "vCPU 0: cannot run: a planned fault");
        assert_eq!(vcpu.run(&mut NoIo).unwrap(), Exit::Io);
        assert!(vcpu.regs().is_ok() && !faults.used_up());
        assert!(vcpu.regs().is_err() && vcpu.regs().is_ok() && faults.used_up());
    }

    #[test]
    #[should_panic(expected = "never came: [(Run, 2)]")]
    fn a_plan_that_is_not_used_up_panics() {
        drop(Faulty::new(FakeHypervisor::new(|_| ()), &Faults::new().fail(Call::Run, 2)));
    }
}
