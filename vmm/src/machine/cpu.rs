use super::MachineError;
use super::cpuid::SavedCpuid;
use crate::config::{Affinity, Config};
use drystone_hypervisor::{Cpuid, Hypervisor, Vcpu, Vm, VmConfig};
use drystone_vcpu::VcpuOptions;
use drystone_vcpu::cpuid::Topology;
use drystone_vcpu::msr::{MsrBank, MsrPolicy};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The machine's processors, as far as they are known before there is a VM.
pub(super) struct Cpus {
    pub(super) topology: Topology,
    /// What each of them answers.
    pub(super) cpuid: SavedCpuid,
    policy: Arc<MsrPolicy>,
    pub(super) msrs: Arc<MsrBank>,
    affinity: Affinity,
    halt_poll: Option<Duration>,
}

impl Cpus {
    /// What `config` asks for, on a host that offers `host`; or what was `saved`, if the host can carry it.
    pub(super) fn plan(
        config: &Config,
        hypervisor: &dyn Hypervisor,
        host: &Cpuid,
        saved: Option<SavedCpuid>,
    ) -> Result<Self, MachineError> {
        let topology = config.cpus.topology()?;
        let capabilities = hypervisor.capabilities();
        let most = capabilities.max_vcpus;
        if topology.vcpus() > most {
            let hypervisor = hypervisor.name();
            return Err(MachineError::Cpus { asked: topology.vcpus(), hypervisor, most });
        }
        let (model, mut policy) = config.cpu.resolve(topology)?;
        let cpuid = match saved {
            None => SavedCpuid::of(&model.on(host)?),
            Some(saved) => saved.on(host, &model)?,
        };
        // The rules that are there for everybody are worth having where they can be had, and no more.
        if config.cpu.msrs.is_empty() && !capabilities.msr_filter {
            policy = MsrPolicy::new();
        }
        let affinity = config.cpu.affinity.clone();
        if !affinity.is_empty() {
            affinity.check(topology.vcpus(), &usable()?).map_err(MachineError::Affinity)?;
        }
        let policy = Arc::new(policy);
        let msrs = Arc::new(MsrBank::new(policy.clone(), topology.apic_ids()));
        let halt_poll = config.cpu.halt_poll_us.map(|us| Duration::from_micros(us.into()));
        Ok(Self { topology, cpuid, policy, msrs, affinity, halt_poll })
    }

    /// How wide the guest's physical addresses are.
    pub(super) fn physical_address_bits(&self) -> u8 {
        self.cpuid.physical_address_bits()
    }

    /// What must be said when the VM is made.
    pub(super) fn configure(&self, vm: &mut VmConfig) {
        vm.halt_poll = self.halt_poll;
        if !self.policy.is_empty() {
            vm.msrs = self.policy.filter();
        }
    }

    pub(super) fn create(&self, vm: &dyn Vm) -> Result<Vec<Box<dyn Vcpu>>, MachineError> {
        let make = |(id, cpuid)| {
            let mut vcpu = vm.create_vcpu(id)?;
            vcpu.set_cpuid(cpuid)?;
            Ok(vcpu)
        };
        self.cpuid.vcpus().map(make).collect()
    }

    /// What their threads are given.
    pub(super) fn options(&self) -> VcpuOptions {
        let mut options = VcpuOptions::default();
        options.msrs = Some(self.msrs.clone());
        if !self.affinity.is_empty() {
            let affinity = self.affinity.clone();
            options.on_thread = Some(Arc::new(move |vcpu| bind(&affinity, vcpu)));
        }
        options
    }
}

/// The processors that this process may use.
fn usable() -> Result<BTreeSet<u32>, MachineError> {
    let cpus = sched_getaffinity(None).map_err(|e| MachineError::Affinity(e.to_string()))?;
    let all = (0..CpuSet::MAX_CPU).filter(|cpu| cpus.is_set(*cpu));
    Ok(all.filter_map(|cpu| u32::try_from(cpu).ok()).collect())
}

/// Binds the calling thread to the processors of a vCPU.
fn bind(affinity: &Affinity, vcpu: usize) -> io::Result<()> {
    let Some(cpus) = u32::try_from(vcpu).ok().and_then(|vcpu| affinity.of(vcpu)) else { return Ok(()) };
    let mut set = CpuSet::new();
    // The numbers were checked against what this process may use.
    cpus.iter().filter_map(|cpu| usize::try_from(*cpu).ok()).for_each(|cpu| set.set(cpu));
    sched_setaffinity(None, &set).map_err(io::Error::from)
}
