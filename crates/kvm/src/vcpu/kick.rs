//! Kicks that cannot be lost.
//!
//! KVM_RUN returns at once, with EINTR, while `kvm_run.immediate_exit` is set, and also when a signal is pending for
//! the thread. Neither is enough alone: KVM looks at the byte only when it enters the guest, and a signal that comes
//! before the thread is in the kernel is handled and gone. Together they leave no gap. A kick first sets the byte, then
//! sends the signal if the thread is on its way into KVM_RUN or in it:
//!
//! - before the thread registered: no signal; KVM_RUN finds the byte set.
//! - after it registered, before KVM looked at the byte: the signal may be handled too early; KVM finds the byte set.
//! - after KVM looked at the byte: the thread is in the kernel, so the signal is pending until KVM_RUN returns for it.
//!
//! So the byte *is* the latch. It is cleared in one place: when KVM_RUN returned EINTR, which becomes
//! `Exit::Interrupted`. A kick before that moment is consumed by that return; a kick after it sets the byte anew.

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use libc::{c_int, c_void, pid_t, siginfo_t};
use std::io;
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};
use vmm_sys_util::{errno, signal};

use crate::vm::lock;
use drystone_hypervisor::Kicker;

fn kick_signal() -> c_int {
    signal::SIGRTMIN()
}

extern "C" fn do_nothing(_: c_int, _: *mut siginfo_t, _: *mut c_void) {}

/// Without a handler the signal would end the process. Installing it twice changes nothing.
pub(crate) fn install_kick_handler() -> Result<(), errno::Error> {
    signal::register_signal_handler(kick_signal(), do_nothing)
}

/// The calling thread's ID, after making sure that kicks can reach it.
pub(super) fn prepare_thread() -> io::Result<pid_t> {
    signal::unblock_signal(kick_signal()).map_err(|e| io::Error::other(format!("{e:?}")))?;
    // SAFETY: gettid has no arguments and always succeeds.
    Ok(unsafe { libc::gettid() })
}

/// A mapping of the `kvm_run` that a vCPU shares with the kernel. It is our own, beside kvm-ioctls', so that a kicking
/// thread never touches memory that the vCPU's thread holds a Rust reference into.
pub(super) struct RunPage {
    run: NonNull<kvm_run>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; all access is through the methods below.
unsafe impl Send for RunPage {}
// SAFETY: the methods access an atomic byte, or (on the vCPU's thread, by contract) a field that only KVM_RUN writes.
unsafe impl Sync for RunPage {}

impl RunPage {
    pub(super) fn map(vcpu: &VcpuFd, len: usize) -> io::Result<Self> {
        if len < size_of::<kvm_run>() {
            return Err(io::Error::other(format!("kvm_run has only {len} bytes")));
        }
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice takes nothing away from anybody.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, vcpu.as_raw_fd(), 0) };
        match NonNull::new(at) {
            Some(at) if at.as_ptr() != libc::MAP_FAILED => Ok(Self { run: at.cast(), len }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the byte lies in the mapping, which lives as long as `self`. On our side it is only ever accessed
        // through this atomic (kvm-ioctls' reference to it is to another mapping); the kernel only reads it.
        unsafe { AtomicU8::from_ptr(self.run.as_ptr().cast::<u8>().add(offset_of!(kvm_run, immediate_exit))) }
    }

    /// The width in bytes of each item of the port access that KVM_RUN just returned with. Only then, and only on the
    /// vCPU's thread.
    pub(super) fn io_size(&self) -> u8 {
        // SAFETY: after KVM_EXIT_IO the union holds an `io`, of plain integers; nobody writes it until the next KVM_RUN,
        // which this thread would have to make.
        unsafe { (*self.run.as_ptr()).__bindgen_anon_1.io.size }
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` mapped; nothing borrowed from `self` is left.
        unsafe { libc::munmap(self.run.as_ptr().cast(), self.len) };
    }
}

/// How one KVM_RUN ended, as far as kicks go.
pub(super) struct Left {
    /// A kick was latched, and is consumed now. Only after EINTR.
    pub(super) kicked: bool,
    /// A kick sent its signal to this run. It may still be on its way, to interrupt the next one.
    pub(super) signalled: bool,
}

#[derive(Default)]
struct Target {
    /// A handle to the latch; gone with the vCPU.
    page: Option<std::sync::Arc<RunPage>>,
    /// The thread in KVM_RUN, or about to enter it, or just back. It is alive: it takes itself out again.
    thread: Option<pid_t>,
    signalled: bool,
}

/// A vCPU as those see it who kick it.
pub(super) struct Latch(Mutex<Target>);

impl Latch {
    pub(super) fn new(page: std::sync::Arc<RunPage>) -> Self {
        Self(Mutex::new(Target { page: Some(page), ..Target::default() }))
    }

    /// From here on kicks signal `thread`.
    pub(super) fn enter(&self, thread: pid_t) {
        lock(&self.0).thread = Some(thread);
    }

    /// From here on kicks signal nobody. `interrupted`: KVM_RUN gave EINTR, so the latch is consumed.
    pub(super) fn leave(&self, interrupted: bool) -> Left {
        let mut target = lock(&self.0);
        target.thread = None;
        let page = target.page.as_ref().filter(|_| interrupted);
        let kicked = page.is_some_and(|p| p.immediate_exit().swap(0, Ordering::SeqCst) != 0);
        Left { kicked, signalled: std::mem::take(&mut target.signalled) }
    }

    /// From here on kicks do nothing.
    pub(super) fn close(&self) {
        lock(&self.0).page = None;
    }
}

impl Kicker for Latch {
    fn kick(&self) {
        let mut target = lock(&self.0);
        let Some(page) = &target.page else { return };
        page.immediate_exit().store(1, Ordering::SeqCst);
        let Some(thread) = target.thread else { return };
        // SAFETY: no memory is involved. The thread exists, as it cannot leave `Target::thread` behind while we
        // hold the lock, and the signal has a handler since `Kvm::open`. A failure (only EAGAIN, when the user's queue of
        // signals is full) leaves the latch set, and the queue's earlier kicks on their way.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, kick_signal()) };
        target.signalled = true;
    }
}
