use io_uring::squeue::Entry;
use io_uring::{IoUring, Probe, opcode};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

/// What an engine asks of the host.
const NEEDED: [u8; 7] = [
    opcode::Read::CODE,
    opcode::Readv::CODE,
    opcode::Write::CODE,
    opcode::Writev::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
    opcode::AsyncCancel::CODE,
];

/// An io_uring, filled and emptied by its one owner. Others may look at its descriptor and take the files from it.
pub(crate) struct Ring {
    uring: Arc<IoUring>,
    /// Pushed and not taken by the host yet.
    pending: usize,
}

impl Ring {
    /// Room for `entries` operations at once, and for what becomes of twice as many.
    pub fn new(entries: u32) -> io::Result<Self> {
        let uring = IoUring::builder().dontfork().setup_cqsize(entries.saturating_mul(2)).build(entries)?;
        let mut probe = Probe::new();
        uring.submitter().register_probe(&mut probe)?;
        if !NEEDED.iter().all(|code| probe.is_supported(*code)) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Self { uring: Arc::new(uring), pending: 0 })
    }

    /// For whoever listens to it: readable when an operation has ended.
    pub fn descriptor(&self) -> Arc<IoUring> {
        self.uring.clone()
    }

    /// Puts an operation into the queue; false if that is full.
    ///
    /// # Safety
    /// What the operation refers to must stay valid until [`next`](Self::next) has said how it ended.
    pub unsafe fn push(&mut self, entry: &Entry) -> bool {
        // SAFETY: `self` is borrowed mutably, and nobody else makes one: it is the only one while it lives.
        let mut queue = unsafe { self.uring.submission_shared() };
        // SAFETY: the caller's promise.
        let pushed = unsafe { queue.push(entry) }.is_ok();
        self.pending += usize::from(pushed);
        pushed
    }

    /// Hands what was pushed to the host: one system call. What the host has no memory for just now stays, to be handed over by the
    /// next call.
    pub fn submit(&mut self) -> io::Result<()> {
        while self.pending > 0 {
            match self.uring.submitter().submit() {
                Ok(taken) => self.pending = self.pending.saturating_sub(taken),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// What has ended next: its number, and what the host said.
    pub fn next(&mut self) -> Option<(u64, i32)> {
        // SAFETY: as for the other queue.
        let mut queue = unsafe { self.uring.completion_shared() };
        queue.next().map(|entry| (entry.user_data(), entry.result()))
    }

    /// Waits until something has ended, or for some milliseconds.
    pub fn wait(&self, millis: i32) {
        let mut poll = libc::pollfd { fd: self.uring.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure, which lives across the call. However it ends, the caller looks.
        unsafe { libc::poll(&raw mut poll, 1, millis) };
    }
}

/// Lets an io_uring use these files, by their position.
pub(crate) fn register(uring: &IoUring, files: &[RawFd]) -> io::Result<()> {
    uring.submitter().register_files(files)
}

/// Takes the first `count` files from it; what it is just doing with them ends.
pub(crate) fn unregister(uring: &IoUring, count: usize) {
    // It has been given so many, which is all that can be wrong here.
    let _ = uring.submitter().register_files_update(0, &vec![-1; count]);
}
