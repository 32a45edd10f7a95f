mod context;
mod kick;
mod msrs;
mod run;
mod state;
mod tsc;
mod xsave;

pub(crate) use kick::install_kick_handler;

use crate::convert::{cpuid_from, cpuid_to, regs_from, regs_to, sregs_from, sregs_to};
use crate::error::{call, invalid};
use crate::vm::{Shared, lock};
use drystone_hypervisor::{Cpuid, Error, Exit, IoHandler, Kicker, Msr, Regs, RunError, Sregs, Vcpu};
use drystone_state::Blob;
use kick::{Latch, RunPage};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_RUNNABLE, kvm_mp_state};
use kvm_ioctls::{Cap, VcpuFd};
use state::Missing;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

pub(crate) struct KvmVcpu {
    id: u32,
    fd: VcpuFd,
    page: Arc<RunPage>,
    latch: Arc<Latch>,
    /// The thread that ran last, and its ID for signals.
    thread: Option<(ThreadId, libc::pid_t)>,
    /// A kick's signal that may come late.
    stale_signal: bool,
    /// The host says that it keeps the exact offset of the guest's time stamp counter.
    has_tsc_offset: bool,
    /// Its CPUID names VMX or SVM.
    can_nest: bool,
    /// The guest's time stamp counter has another rate than the host's.
    tsc_is_scaled: bool,
    /// The MSRs that could be read when it was last saved; the others are not asked for again.
    readable_msrs: Mutex<Option<Vec<u32>>>,
    /// What the state lacks that was last saved or restored.
    missing: Mutex<Missing>,
    /// Last: KVM's VM goes after its vCPUs.
    vm: Arc<Shared>,
}

impl KvmVcpu {
    pub(crate) fn new(id: u32, vm: Arc<Shared>) -> Result<Self, Error> {
        let attempt = || format!("create vCPU {id}");
        let fd = vm.fd.create_vcpu(id.into()).map_err(call(attempt))?;
        if let Some(rings) = &vm.rings {
            rings.add(&fd).map_err(|cause| Error::Call {
                attempt: format!("map the dirty ring of vCPU {id}"),
                cause,
            })?;
        }
        let page = RunPage::map(&fd, vm.fd.run_size())
            .map_err(|cause| Error::Call { attempt: format!("map the run area of vCPU {id}"), cause })?;
        let page = Arc::new(page);
        let latch = Arc::new(Latch::new(page.clone()));
        Ok(Self {
            id,
            has_tsc_offset: tsc::has_offset(&fd),
            can_nest: false,
            fd,
            page,
            latch,
            thread: None,
            stale_signal: false,
            tsc_is_scaled: false,
            readable_msrs: Mutex::default(),
            missing: Mutex::default(),
            vm,
        })
    }

    fn attempt(&self, what: &str) -> String {
        format!("{what} of vCPU {}", self.id)
    }

    /// Without an interrupt controller in KVM, KVM takes CR8 from `kvm_run` on every entry.
    fn sync_cr8(&mut self, cr8: u64) {
        self.fd.get_kvm_run().cr8 = cr8;
    }
}

impl Drop for KvmVcpu {
    fn drop(&mut self) {
        self.latch.close();
    }
}

impl Vcpu for KvmVcpu {
    fn id(&self) -> u32 {
        self.id
    }

    fn run(&mut self, io: &mut dyn IoHandler) -> Result<Exit, RunError> {
        self.run_once(io)
    }

    fn kicker(&self) -> Arc<dyn Kicker> {
        self.latch.clone()
    }

    fn regs(&self) -> Result<Regs, Error> {
        let regs = self.fd.get_regs().map_err(call(|| self.attempt("read the registers")))?;
        Ok(regs_from(&regs))
    }

    fn set_regs(&mut self, regs: &Regs) -> Result<(), Error> {
        self.fd.set_regs(&regs_to(regs)).map_err(call(|| self.attempt("set the registers")))
    }

    fn sregs(&self) -> Result<Sregs, Error> {
        let sregs = self.fd.get_sregs().map_err(call(|| self.attempt("read the control registers")))?;
        Ok(sregs_from(&sregs))
    }

    fn set_sregs(&mut self, sregs: &Sregs) -> Result<(), Error> {
        let old = self.fd.get_sregs().map_err(call(|| self.attempt("read the control registers")))?;
        let new = sregs_to(sregs, old.interrupt_bitmap);
        self.fd.set_sregs(&new).map_err(call(|| self.attempt("set the control registers")))?;
        self.sync_cr8(sregs.cr8);
        Ok(())
    }

    fn cpuid(&self) -> Result<Cpuid, Error> {
        let cpuid =
            self.fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(call(|| self.attempt("read the CPUID")))?;
        Ok(cpuid_from(cpuid.as_slice()))
    }

    fn set_cpuid(&mut self, cpuid: &Cpuid) -> Result<(), Error> {
        let attempt = || self.attempt("set the CPUID");
        let entries = CpuId::from_entries(&cpuid_to(cpuid))
            .map_err(|_| invalid(attempt(), format!("more than {KVM_MAX_CPUID_ENTRIES} entries")))?;
        self.fd.set_cpuid2(&entries).map_err(call(attempt))?;
        self.can_nest = state::can_nest(cpuid);
        // What CPUID names decides which MSRs exist.
        *lock(&self.readable_msrs) = None;
        Ok(())
    }

    fn msrs(&self, indices: &[u32]) -> Result<Vec<Msr>, Error> {
        msrs::read(self, indices)
    }

    fn set_msrs(&mut self, msrs: &[Msr]) -> Result<(), Error> {
        msrs::write(self, msrs)
    }

    fn start(&mut self) -> Result<(), Error> {
        // Without local APICs there is no state to leave, and KVM refuses to set one.
        if !self.vm.config.has_interrupts() {
            return Ok(());
        }
        let runnable = kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE };
        self.fd.set_mp_state(runnable).map_err(call(|| self.attempt("set the MP state")))
    }

    fn notify_stopped(&mut self) -> Result<(), Error> {
        if !self.vm.fd.check_extension(Cap::KvmclockCtrl) {
            return Ok(());
        }
        match self.fd.kvmclock_ctrl() {
            // The guest has no kvm-clock, or not yet.
            Err(e) if e.errno() == libc::EINVAL => Ok(()),
            done => done.map_err(call(|| self.attempt("tell the guest of the stop"))),
        }
    }

    fn save(&self) -> Result<Blob, Error> {
        state::save(self)
    }

    fn unsaved(&self) -> Vec<String> {
        lock(&self.missing).names()
    }

    fn restore(&mut self, state: &Blob) -> Result<(), Error> {
        state::restore(self, state)
    }
}
