use super::{KvmVcpu, kick};
use crate::error::cause;
use drystone_hypervisor::{Exit, IoHandler, MsrAction, MsrFilter, RunError};
use kvm_bindings::{
    KVM_EXIT_DIRTY_RING_FULL, KVM_INTERNAL_ERROR_EMULATION,
    KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
};
use kvm_ioctls::VcpuExit;

/// What KVM_RUN came back with, without what it borrows.
enum Outcome {
    Exit(Exit),
    /// A signal, or the latch.
    Eintr,
    /// A secondary CPU woke up (INIT or SIPI came), and shall be run again.
    Again,
    /// The vCPU's dirty ring has no room for what it wants to write.
    RingFull,
    FailedEntry(u64),
    InternalError,
    Failed(vmm_sys_util::errno::Error),
    Unexpected(String),
}

impl KvmVcpu {
    pub(super) fn run_once(&mut self, io: &mut dyn IoHandler) -> Result<Exit, RunError> {
        let thread = self.own_thread()?;
        let id = self.id;
        let unexpected = |what: &str| RunError::Unexpected { id, what: what.into() };
        let mut emptied = None;
        self.vm.deferred.prepare(&self.fd).map_err(|cause| RunError::Call { id, cause })?;
        loop {
            self.latch.enter(thread);
            let result = self.fd.run();
            let interrupted = match &result {
                Err(e) => e.errno() == libc::EINTR,
                Ok(exit) => matches!(exit, VcpuExit::Intr),
            };
            let left = self.latch.leave(interrupted);
            // Only now the handler: it may take long, may kick, and may panic. What waited comes before what the guest left for.
            self.vm.deferred.deliver(io);
            let outcome = match result {
                Ok(exit) => serve(exit, &self.page, &self.vm.config.msrs, io),
                Err(e) if e.errno() == libc::EINTR => Outcome::Eintr,
                Err(e) if e.errno() == libc::EAGAIN => Outcome::Again,
                Err(e) => Outcome::Failed(e),
            };
            // A signal that was sent while this run lasted is handled on the way out of the next at the latest.
            let was_stale = std::mem::replace(&mut self.stale_signal, left.signalled);
            return match outcome {
                Outcome::Exit(exit) => Ok(exit),
                Outcome::Again => continue,
                Outcome::RingFull => match self.vm.empty_rings() {
                    // This thread has emptied it, or another one that was quicker.
                    Ok(times) if emptied.replace(times) != Some(times) => continue,
                    Ok(_) => Err(unexpected("KVM calls a dirty ring full that has nothing in it")),
                    Err(e) => Err(unexpected(&e.to_string())),
                },
                // The signal of a kick that an earlier return consumed came late: it must not count twice.
                Outcome::Eintr if was_stale && !left.kicked => continue,
                Outcome::Eintr => Ok(Exit::Interrupted),
                Outcome::FailedEntry(reason) => {
                    Err(RunError::FailedEntry { id, reason, context: self.context(&[]) })
                }
                Outcome::InternalError => Err(self.internal_error()),
                Outcome::Failed(e) => Err(RunError::Call { id, cause: cause(e) }),
                Outcome::Unexpected(what) => Err(unexpected(&what)),
            };
        }
    }

    /// The calling thread's ID; made ready for kicks when it is new.
    fn own_thread(&mut self) -> Result<libc::pid_t, RunError> {
        let current = std::thread::current().id();
        match self.thread {
            Some((thread, id)) if thread == current => Ok(id),
            _ => {
                let id = kick::prepare_thread().map_err(|cause| RunError::Call { id: self.id, cause })?;
                self.thread = Some((current, id));
                Ok(id)
            }
        }
    }

    fn internal_error(&mut self) -> RunError {
        let id = self.id;
        let run = self.fd.get_kvm_run();
        // SAFETY: after KVM_EXIT_INTERNAL_ERROR the union holds an `internal`, of plain integers.
        let internal = unsafe { run.__bindgen_anon_1.internal };
        if internal.suberror != KVM_INTERNAL_ERROR_EMULATION {
            let count = internal.data.len().min(internal.ndata as usize);
            let data = internal.data.iter().take(count).copied().collect();
            return RunError::Internal { id, suberror: internal.suberror, data, context: self.context(&[]) };
        }
        // SAFETY: this suberror makes it an `emulation_failure`, which lies over the same plain integers.
        let failure = unsafe { run.__bindgen_anon_1.emulation_failure };
        // `flags` is the first of the data; KVM before 5.14 gives none. Then size and bytes take two more.
        let has_bytes = failure.ndata >= 3
            && failure.flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0;
        // SAFETY: the union has this one member, of plain bytes.
        let code = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
        let size = if has_bytes { usize::from(code.insn_size) } else { 0 };
        let bytes = code.insn_bytes.get(..size).unwrap_or_default();
        RunError::Emulation { id, context: self.context(bytes) }
    }
}

/// Hands an access to its handler, and gives the rest names.
fn serve(exit: VcpuExit<'_>, page: &kick::RunPage, msrs: &MsrFilter, io: &mut dyn IoHandler) -> Outcome {
    let unexpected = |what: &str| Outcome::Unexpected(what.into());
    match exit {
        // A string instruction comes with several items at once.
        VcpuExit::IoIn(port, data) => {
            data.chunks_mut(page.io_size().max(1).into()).for_each(|item| io.pio_read(port, item));
        }
        VcpuExit::IoOut(port, data) => {
            data.chunks(page.io_size().max(1).into()).for_each(|item| io.pio_write(port, item));
        }
        VcpuExit::MmioRead(addr, data) => io.mmio_read(addr, data),
        VcpuExit::MmioWrite(addr, data) => io.mmio_write(addr, data),
        VcpuExit::X86Rdmsr(read) => {
            let refused = msrs.action(read.index, false) == Some(MsrAction::Refuse);
            match if refused { None } else { io.rdmsr(read.index) } {
                Some(value) => *read.data = value,
                None => *read.error = 1,
            }
        }
        VcpuExit::X86Wrmsr(write) => {
            let refused = msrs.action(write.index, true) == Some(MsrAction::Refuse);
            *write.error = u8::from(refused || !io.wrmsr(write.index, write.data));
        }
        VcpuExit::IoapicEoi(vector) => return Outcome::Exit(Exit::IoApicEoi { vector }),
        VcpuExit::Hlt => return Outcome::Exit(Exit::Halted),
        VcpuExit::Shutdown => return Outcome::Exit(Exit::Shutdown),
        VcpuExit::Debug(_) => return Outcome::Exit(Exit::Debug),
        VcpuExit::Intr => return Outcome::Eintr,
        VcpuExit::FailEntry(reason, _) => return Outcome::FailedEntry(reason),
        VcpuExit::InternalError => return Outcome::InternalError,
        VcpuExit::SystemEvent(kind, _) => return Outcome::Unexpected(format!("system event {kind}")),
        VcpuExit::MemoryFault { flags, gpa, size } => {
            return Outcome::Unexpected(format!(
                "memory fault on {size} bytes at {gpa:#x} (flags {flags:#x})"
            ));
        }
        VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL) => return Outcome::RingFull,
        VcpuExit::Unsupported(reason) => return Outcome::Unexpected(format!("KVM exit reason {reason}")),
        VcpuExit::Unknown => return unexpected("KVM does not know the hardware's exit reason"),
        other => return Outcome::Unexpected(format!("{other:?}")),
    }
    Outcome::Exit(Exit::Io)
}
