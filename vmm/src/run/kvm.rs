use super::engine::{Built, Engine};
use super::exits;
use crate::config::{Config, LimitSettings};
use crate::control::{self, Action, Info, Limited, SnapshotProgress, VerbError, Verbs};
use crate::events::{EventKind, History, Journal};
use crate::log::Log;
use crate::machine::{Booted, DeviceId, HandleError, Handles, Machine, Origin};
use crate::monitor::{Handle, Request, RequestError, mailbox};
use crate::registry::VmId;
use crate::snapshot::{RestoreOptions, SnapshotError};
use drystone_kvm::Kvm;
use drystone_lifecycle::{self as lifecycle, StateReader, Verb};
use drystone_observe::Registry;
use drystone_snapshot::Snapshot;
use drystone_vcpu::VcpuSet;
use drystone_vcpu::msr::MsrBank;
use std::sync::Arc;
use std::time::Instant;

/// Machines on `/dev/kvm` that boot.
pub struct KvmEngine;

impl Engine for KvmEngine {
    fn build(&self, config: &Config, id: &VmId, log: &Log) -> Result<Built, String> {
        build(config, id, log, Origin::Boot)
    }
}

/// Machines on `/dev/kvm` that go on from a snapshot.
pub struct RestoreEngine {
    /// It.
    pub snapshot: Snapshot,
    /// What the machine makes of it.
    pub options: RestoreOptions,
}

impl Engine for RestoreEngine {
    fn build(&self, config: &Config, id: &VmId, log: &Log) -> Result<Built, String> {
        build(config, id, log, Origin::Restore { snapshot: &self.snapshot, options: self.options })
    }
}

fn build(config: &Config, id: &VmId, log: &Log, origin: Origin<'_>) -> Result<Built, String> {
    let kvm = Kvm::open().map_err(|e| e.to_string())?;
    let (handle, mailbox) = mailbox();
    let journal = Journal::new(log.clone());
    // Its name goes into its snapshots, also if it was made up.
    let config = &Config { id: Some(id.to_string()), ..config.clone() };
    let (machine, console) =
        Machine::assemble(config, &kvm, &handle, &journal, origin).map_err(|e| e.to_string())?;
    let exits = Arc::new(exits::Exits(machine.vcpus()));
    machine.registry().add("vcpu", exits).map_err(|e| e.to_string())?;
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
        handles: machine.handles(),
        handle: handle.clone(),
        journal,
    });
    Ok(Built {
        verbs,
        input: Box::new(console.input),
        output: Box::new(console.output),
        end: Box::new(move || handle.end(lifecycle::Cause::Operator)),
        begin: Box::new(move || {
            let monitor = mailbox.begin(machine).map_err(|e| e.to_string())?;
            Ok(Box::new(move || monitor.serve().map_err(|e| e.to_string())))
        }),
    })
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
    handles: Handles,
    journal: Journal,
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
            snapshot: self.handle.snapshot().bytes().map(|(done, total)| SnapshotProgress { done, total }),
        }
    }

    fn metrics(&self) -> drystone_observe::Snapshot {
        self.registry.snapshot()
    }

    fn history(&self) -> History {
        self.journal.history()
    }

    fn act(&self, action: Action) -> Result<Info, VerbError> {
        let verb = action.verb();
        let request = match action {
            Action::Pause => Request::Life(Verb::Pause),
            Action::Resume => Request::Life(Verb::Resume),
            Action::Reset => Request::Life(Verb::Reset),
            Action::Stop => Request::Life(Verb::Stop),
            Action::Power => Request::PowerButton,
            Action::CtrlAltDel => Request::CtrlAltDel,
            Action::Nmi { cpu } => Request::Nmi(cpu),
            Action::StopGracefully { timeout } => Request::Shutdown(timeout),
            Action::Snapshot(request) => Request::Snapshot(request),
            Action::CancelSnapshot if self.handle.snapshot().cancel() => return Ok(self.info()),
            Action::CancelSnapshot => {
                return Err(VerbError::Illegal("no snapshot is being written".into()));
            }
            Action::DiskAdd(disk) => Request::AddDisk(disk),
            Action::DiskRemove { disk, removal } => Request::Remove(DeviceId::Disk(disk), removal),
            Action::NetAdd(net) => Request::AddNet(net),
            Action::NetRemove { net, removal } => Request::Remove(DeviceId::Net(net), removal),
            Action::DiskResize { disk, size } => {
                let resized = self.handles.resize_disk(&disk, size.map(|s| s.0));
                return self
                    .set(EventKind::DiskResized, resized.map(|bytes| format!("{disk} to {bytes} bytes")));
            }
            Action::DiskLimit { what: disk, limit } => {
                let limits = limit.limits().map_err(VerbError::Illegal)?;
                let (limited, what) = match disk {
                    Limited::Disk(disk) => {
                        (self.handles.limit_disk(&disk, limits), format!("disk {disk} to {limit}"))
                    }
                    Limited::Group(group) => {
                        (self.handles.limit_group(&group, limits), format!("limit group {group} to {limit}"))
                    }
                };
                return self.set(EventKind::Limited, limited.map(|()| what));
            }
            Action::NetLink { net, up } => {
                let done = self.handles.link_net(&net, up);
                let detail = format!("{net} {}", if up { "up" } else { "down" });
                return self.set(EventKind::NetLink, done.map(|()| detail));
            }
            Action::NetLimit { net, rx, tx } => {
                let limits = |limit: Option<LimitSettings>| limit.map(|l| l.limits()).transpose();
                let (new_rx, new_tx) =
                    (limits(rx).map_err(VerbError::Illegal)?, limits(tx).map_err(VerbError::Illegal)?);
                let limited = self.handles.limit_net(&net, new_rx, new_tx);
                let told = [("receives", rx), ("sends", tx)];
                let told =
                    told.iter().filter_map(|(what, limit)| Some(format!("what it {what} to {}", (*limit)?)));
                let detail = format!("net {net}: {}", told.collect::<Vec<_>>().join(", "));
                return self.set(EventKind::Limited, limited.map(|()| detail));
            }
            Action::RngLimit(limit) => {
                let limits = limit.limits().map_err(VerbError::Illegal)?;
                let limited = self.handles.limit_rng(limits);
                return self.set(EventKind::Limited, limited.map(|()| format!("rng to {limit}")));
            }
        };
        match self.handle.request(request) {
            // Somebody else was quicker, and what was wanted is so.
            Err(RequestError::Gone) if verb == control::Verb::Stop => Ok(self.info()),
            Ok(_) => Ok(self.info()),
            Err(RequestError::Lifecycle(e)) if !matches!(e, lifecycle::Error::Illegal(_)) => {
                Err(VerbError::Failed(e.to_string()))
            }
            Err(RequestError::Snapshot(SnapshotError::Lifecycle(e @ lifecycle::Error::Illegal(_)))) => {
                Err(VerbError::Illegal(e.to_string()))
            }
            Err(
                e @ (RequestError::Nmi(_)
                | RequestError::Snapshot(_)
                | RequestError::Plug(_)
                | RequestError::Overdue(_)),
            ) => Err(VerbError::Failed(e.to_string())),
            Err(e) => Err(VerbError::Illegal(e.to_string())),
        }
    }
}

impl Running {
    /// Tells of what was set on a device; answers for what was not.
    fn set(&self, event: EventKind, done: Result<String, HandleError>) -> Result<Info, VerbError> {
        match done {
            Ok(detail) => {
                self.journal.note(event, Some(detail));
                Ok(self.info())
            }
            Err(e) if e.is_refusal() => Err(VerbError::Illegal(e.to_string())),
            Err(e) => Err(VerbError::Failed(e.to_string())),
        }
    }
}
