mod open;

use crate::convert::cpuid_from;
use crate::error::{call, cause};
use crate::vcpu::install_kick_handler;
use crate::vm::{KvmVm, dirty_rings_offered};
use drystone_hypervisor::{Capabilities, Cpuid, Error, Hypervisor, Vm, VmConfig};
use kvm_bindings::{KVM_API_VERSION, KVM_CAP_HALT_POLL, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::Cap;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// The host's KVM.
///
/// ```no_run
/// use drystone_hypervisor::{Hypervisor, VmConfig};
/// let kvm = drystone_kvm::Kvm::open()?;
/// let vm = kvm.create_vm(&VmConfig::default())?;
/// # Ok::<(), drystone_hypervisor::Error>(())
/// ```
#[derive(Debug)]
pub struct Kvm {
    kvm: kvm_ioctls::Kvm,
}

/// CPUID leaf 1, ECX.
const TSC_DEADLINE_TIMER: u32 = 1 << 24;

/// What every VM needs, with the name in the kernel's document.
const REQUIRED: [(Cap, &str); 6] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
];

impl Kvm {
    /// Where Linux puts the device.
    pub const DEVICE: &'static str = "/dev/kvm";

    /// Opens [`Kvm::DEVICE`], and installs the handler of the signal that kicks vCPUs (see the crate's documentation).
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it cannot be opened, with a hint at what helps; [`Error::Missing`] when it is too
    /// old.
    pub fn open() -> Result<Self, Error> {
        Self::open_path(Path::new(Self::DEVICE))
    }

    /// As [`open`](Self::open), for a device node elsewhere.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_path(path: &Path) -> Result<Self, Error> {
        let unavailable = |cause: io::Error| open::unavailable(path, cause);
        let c_path = CString::new(path.as_os_str().as_bytes()).map_err(|e| unavailable(e.into()))?;
        let kvm = kvm_ioctls::Kvm::new_with_path(c_path).map_err(|e| unavailable(cause(e)))?;
        match kvm.get_api_version() {
            version if version < 0 => return Err(unavailable(io::Error::other("it is not KVM"))),
            version if version != KVM_API_VERSION as i32 => {
                let what = format!("KVM API version {KVM_API_VERSION} (it has {version})");
                return Err(Error::Missing { what });
            }
            _ => {}
        }
        for (cap, name) in REQUIRED {
            if !kvm.check_extension(cap) {
                return Err(Error::Missing { what: name.into() });
            }
        }
        install_kick_handler().map_err(call(|| "install a signal handler for kicks"))?;
        Ok(Self { kvm })
    }
}

impl Hypervisor for Kvm {
    fn name(&self) -> &'static str {
        "KVM"
    }

    fn capabilities(&self) -> Capabilities {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let has = |cap| self.kvm.check_extension(cap);
        let mut capabilities = Capabilities::default();
        capabilities.max_vcpus = count(self.kvm.get_max_vcpus());
        capabilities.memory_slots = count(self.kvm.get_nr_memslots());
        capabilities.irqchip = has(Cap::Irqchip) && has(Cap::Irqfd);
        capabilities.split_irqchip = has(Cap::SplitIrqchip) && has(Cap::Irqfd);
        capabilities.msi = has(Cap::SignalMsi) && has(Cap::IrqRouting) && has(Cap::Irqfd);
        capabilities.msr_filter = has(Cap::X86UserSpaceMsr) && has(Cap::X86MsrFilter);
        capabilities.notify_stopped = has(Cap::KvmclockCtrl);
        capabilities.dirty_ring_entries = dirty_rings_offered(|cap| self.kvm.check_extension_raw(cap)).1;
        capabilities.halt_poll = self.kvm.check_extension_raw(KVM_CAP_HALT_POLL.into()) > 0;
        capabilities.deferred_writes = has(Cap::CoalescedPio) && has(Cap::CoalescedMmio);
        capabilities
    }

    fn supported_cpuid(&self) -> Result<Cpuid, Error> {
        let cpuid = self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
        let mut cpuid = cpuid_from(cpuid.map_err(call(|| "read what CPUID can answer"))?.as_slice());
        // The TSC-deadline timer belongs to the local APIC in KVM, which a VM may do without: KVM leaves it out here
        // and names it in a capability (kernel document virt/kvm/api, KVM_GET_SUPPORTED_CPUID).
        if self.kvm.check_extension(Cap::TscDeadlineTimer)
            && let Some(leaf) = cpuid.get_mut(1, 0)
        {
            leaf.ecx |= TSC_DEADLINE_TIMER;
        }
        Ok(cpuid)
    }

    fn create_vm(&self, config: &VmConfig) -> Result<Arc<dyn Vm>, Error> {
        Ok(Arc::new(KvmVm::new(&self.kvm, config)?))
    }
}
