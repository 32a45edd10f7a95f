use drystone_hypervisor::Kicker;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

/// Installs an empty handler for the kick signal: its only purpose is that KVM_RUN returns with EINTR. Installing it
/// again changes nothing.
pub(crate) fn install_handler() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    register_signal_handler(SIGRTMIN(), nothing).map_err(Into::into)
}

/// The latch of one vCPU: `immediate_exit` in its shared kvm_run page, and the thread to signal.
///
/// Why no kick is lost. A kick first sets `immediate_exit`, then signals the thread if there is one in `run`:
/// - it comes before KVM_RUN is entered: KVM sees `immediate_exit` and returns EINTR (KVM API, 5);
/// - it comes in the guest: the signal makes KVM_RUN return EINTR, and `immediate_exit` is set too;
/// - it comes after KVM_RUN returned for another reason: `immediate_exit` stays set for the next call.
///
/// `run` clears `immediate_exit` in one place: when KVM_RUN has returned EINTR, before it reports `Interrupted`. A kick
/// that comes after that sets it again; one that came before is the one reported. The caller looks for requests after
/// `Interrupted`, so it sees the request of either.
pub(crate) struct Latch(Mutex<Target>);

struct Target {
    /// `kvm_run.immediate_exit`; `None` once the vCPU is gone.
    flag: Option<FlagPointer>,
    /// The thread in `run`.
    thread: Option<libc::pid_t>,
}

struct FlagPointer(*const AtomicU8);

// SAFETY: the pointee is an atomic in a mapping shared between threads; it is only followed under the latch's mutex,
// while the vCPU that owns the mapping lives.
unsafe impl Send for FlagPointer {}

impl FlagPointer {
    fn store(&self, value: u8) {
        // SAFETY: see above: the mapping outlives this pointer, which `close` takes away before it goes.
        unsafe { &*self.0 }.store(value, Ordering::SeqCst);
    }
}

impl Latch {
    /// # Safety
    /// `immediate_exit` stays valid until [`close`](Self::close) has returned, and is only accessed atomically meanwhile.
    pub(crate) unsafe fn new(immediate_exit: *mut u8) -> Arc<Self> {
        let flag = Some(FlagPointer(immediate_exit.cast::<AtomicU8>().cast_const()));
        Arc::new(Self(Mutex::new(Target { flag, thread: None })))
    }

    fn target(&self) -> MutexGuard<'_, Target> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The calling thread is about to enter KVM_RUN; ends with the returned value.
    pub(crate) fn enter(&self) -> InRun<'_> {
        // SAFETY: gettid has no preconditions.
        self.target().thread = Some(unsafe { libc::gettid() });
        InRun(self)
    }

    /// KVM_RUN has returned EINTR: the kick, if it was one, is consumed.
    pub(crate) fn consume(&self) {
        if let Some(flag) = &self.target().flag {
            flag.store(0);
        }
    }

    /// The vCPU goes: later kicks do nothing.
    pub(crate) fn close(&self) {
        self.target().flag = None;
    }
}

pub(crate) struct InRun<'a>(&'a Latch);

impl Drop for InRun<'_> {
    fn drop(&mut self) {
        self.0.target().thread = None;
    }
}

impl Kicker for Latch {
    fn kick(&self) {
        let target = self.target();
        let Some(flag) = &target.flag else { return };
        flag.store(1);
        if let Some(thread) = target.thread {
            // SAFETY: a signal with an installed handler, to a thread of this process that is inside `run`: it takes
            // the mutex that we hold before it leaves, so its number cannot have been reused.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, SIGRTMIN()) };
        }
    }
}
