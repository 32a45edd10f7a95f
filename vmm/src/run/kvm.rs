use super::engine::{Built, Engine};
use super::exits;
use crate::config::Config;
use crate::control::{self, Action, Info, VerbError, Verbs};
use crate::events::{History, Journal};
use crate::log::Log;
use crate::machine::{Booted, Machine};
use crate::monitor::{Handle, Request, RequestError, mailbox};
use crate::registry::VmId;
use drystone_kvm::Kvm;
use drystone_lifecycle::{self as lifecycle, StateReader, Verb};
use drystone_observe::{Registry, Snapshot};
use drystone_vcpu::VcpuSet;
use drystone_vcpu::msr::MsrBank;
use std::sync::Arc;
use std::time::Instant;

/// Machines on `/dev/kvm`.
pub struct KvmEngine;

impl Engine for KvmEngine {
    fn build(&self, config: &Config, id: &VmId, log: &Log) -> Result<Built, String> {
        let kvm = Kvm::open().map_err(|e| e.to_string())?;
        let (handle, mailbox) = mailbox();
        let journal = Journal::new(log.clone());
        let (machine, console) =
            Machine::build(config, &kvm, &handle, &journal).map_err(|e| e.to_string())?;
        let booted = machine.booted().clone();
        log.info(&booted);
        let verbs = Arc::new(Running {
            id: id.clone(),
            booted,
            cpus: machine.topology().vcpus(),
            memory: config.memory.size.0,
            since: Instant::now(),
            state: machine.state_reader(),
            vcpus: machine.vcpus(),
            msrs: machine.msrs(),
            registry: machine.registry(),
            handle: handle.clone(),
            history: journal.history(),
        });
        Ok(Built {
            verbs,
            input: Box::new(console.input),
            output: Box::new(console.output),
            end: Box::new(move || handle.end(lifecycle::Cause::Operator)),
            serve: Box::new(move || mailbox.serve(machine).map_err(|e| e.to_string())),
        })
    }
}

/// A machine that its monitor runs, as the control socket sees it.
struct Running {
    id: VmId,
    booted: Booted,
    cpus: u32,
    memory: u64,
    since: Instant,
    state: StateReader,
    vcpus: Arc<VcpuSet>,
    msrs: Arc<MsrBank>,
    handle: Handle,
    history: History,
    registry: Registry,
}

impl Verbs for Running {
    fn info(&self) -> Info {
        let status = self.state.status();
        Info {
            id: self.id.to_string(),
            pid: std::process::id(),
            state: status.state.into(),
            cpus: self.cpus,
            memory_bytes: self.memory,
            uptime_ms: self.since.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
            version: env!("CARGO_PKG_VERSION").into(),
            kernel: self.booted.kernel.clone(),
            boot_protocol: self.booted.protocol.to_string(),
            resets: status.resets,
            end: status.end.as_ref().map(Into::into),
            exits: exits::counts(&self.vcpus),
            exit_latency: exits::latency(&self.vcpus),
            msrs: self.msrs.counts(),
        }
    }

    fn metrics(&self) -> Snapshot {
        self.registry.snapshot()
    }

    fn history(&self) -> History {
        self.history.clone()
    }

    fn act(&self, action: Action) -> Result<Info, VerbError> {
        let request = match action {
            Action::Pause => Request::Life(Verb::Pause),
            Action::Resume => Request::Life(Verb::Resume),
            Action::Reset => Request::Life(Verb::Reset),
            Action::Stop => Request::Life(Verb::Stop),
            Action::Power => Request::PowerButton,
            Action::CtrlAltDel => Request::CtrlAltDel,
            Action::Nmi { cpu } => Request::Nmi(cpu),
            Action::StopGracefully { timeout } => Request::Shutdown(timeout),
        };
        match self.handle.request(request) {
            // Somebody else was quicker, and what was wanted is so.
            Err(RequestError::Gone) if action.verb() == control::Verb::Stop => Ok(self.info()),
            Ok(_) => Ok(self.info()),
            Err(RequestError::Lifecycle(e)) if !matches!(e, lifecycle::Error::Illegal(_)) => {
                Err(VerbError::Failed(e.to_string()))
            }
            Err(e @ RequestError::Nmi(_)) => Err(VerbError::Failed(e.to_string())),
            Err(e) => Err(VerbError::Illegal(e.to_string())),
        }
    }
}
