use crate::convert;
use crate::kick;
use crate::vm::KvmVm;
use drystone_hypervisor::{Capabilities, Cpuid, Error, Hypervisor, Vm, VmConfig};
use kvm_bindings::{KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::Cap;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// What the back end cannot do without, by its name in the KVM API document.
const NEEDED: [(Cap, &str); 5] = [
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
];

/// The host's KVM.
pub struct Kvm {
    fd: Arc<kvm_ioctls::Kvm>,
    capabilities: Capabilities,
}

impl Kvm {
    /// Where Linux puts the device.
    pub const DEVICE: &'static str = "/dev/kvm";

    /// Opens [`Kvm::DEVICE`].
    ///
    /// # Errors
    /// As [`open_path`](Self::open_path).
    pub fn open() -> Result<Self, Error> {
        Self::open_path(Path::new(Self::DEVICE))
    }

    /// Opens KVM through its device node at `path`, and installs an empty handler for the process's first real-time
    /// signal, which is what gets a vCPU's thread out of the guest.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it cannot be opened, with what the user can do about it; [`Error::Missing`] when the
    /// kernel is too old.
    pub fn open_path(path: &Path) -> Result<Self, Error> {
        let unavailable = |cause: io::Error| Error::Unavailable {
            device: path.display().to_string(),
            hint: hint(path, &cause),
            cause,
        };
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|e| unavailable(e.into()))?;
        let fd = kvm_ioctls::Kvm::new_with_path(&name).map_err(|e| unavailable(e.into()))?;
        match fd.get_api_version() {
            version if version == KVM_API_VERSION as i32 => {}
            version if version < 0 => return Err(unavailable(io::Error::other("it is not KVM"))),
            version => return Err(Error::Missing { what: format!("KVM API 12 (it has {version})") }),
        }
        if let Some((_, name)) = NEEDED.iter().find(|(cap, _)| !fd.check_extension(*cap)) {
            return Err(Error::Missing { what: (*name).into() });
        }
        kick::install_handler()
            .map_err(|cause| Error::Call { attempt: "install the kick signal's handler".into(), cause })?;
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let irqchip = fd.check_extension(Cap::Irqchip) && fd.check_extension(Cap::Irqfd);
        let capabilities = Capabilities::new(count(fd.get_max_vcpus()), count(fd.get_nr_memslots()), irqchip);
        Ok(Self { fd: Arc::new(fd), capabilities })
    }
}

/// What the user can do about a device that does not open; starts with a separator.
fn hint(path: &Path, cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::NotFound => {
            "; enable virtualisation in the firmware and load kvm_intel or kvm_amd (in a virtual machine: ask its \
             host for nested virtualisation)"
                .into()
        }
        io::ErrorKind::PermissionDenied => permission_hint(path),
        _ => String::new(),
    }
}

fn permission_hint(path: &Path) -> String {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let gid = std::fs::metadata(path).map(|m| m.gid().to_string());
    let owner = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == gid.as_deref().ok()?).then_some(name)
    });
    match owner {
        Some(group) if group != "root" => {
            format!("; it belongs to the group {group}: `sudo usermod -aG {group} $USER`, then log in again")
        }
        _ => format!("; let your user open it, for example `sudo setfacl -m u:$USER:rw {}`", path.display()),
    }
}

impl Hypervisor for Kvm {
    fn name(&self) -> &'static str {
        "KVM"
    }
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }
    fn supported_cpuid(&self) -> Result<Cpuid, Error> {
        let cpuid = self.fd.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
        let mut cpuid = cpuid
            .map(|c| convert::cpuid_from_kvm(&c))
            .map_err(|e| Error::Call { attempt: "read the supported CPUID".into(), cause: e.into() })?;
        // KVM reports the TSC-deadline timer as a capability of the in-kernel APIC, not in CPUID (KVM API, 4.47).
        if self.fd.check_extension(Cap::TscDeadlineTimer)
            && let Some(leaf) = cpuid.get_mut(1, 0)
        {
            leaf.ecx |= 1 << 24;
        }
        Ok(cpuid)
    }
    fn create_vm(&self, config: &VmConfig) -> Result<Arc<dyn Vm>, Error> {
        Ok(Arc::new(KvmVm::new(self.fd.clone(), self.capabilities, config)?))
    }
}
